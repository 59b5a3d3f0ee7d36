"""Places and rates, by a clock of the test's own."""

from __future__ import annotations

from luthier.serving.admission import Admission
from luthier.serving.keys import ApiKey


def test_a_place_is_free_again_when_it_is_left() -> None:
    admission = Admission(2)
    assert [admission.enter() for _ in range(3)] == [True, True, False]
    admission.leave()
    assert admission.enter()


def test_a_key_may_burst_once_and_then_asks_evenly() -> None:
    now = [0.0]
    admission = Admission(1, clock=lambda: now[0])
    key = ApiKey(name="k", sha256="0" * 64, requests_per_minute=30)
    other = ApiKey(name="o", sha256="1" * 64, requests_per_minute=1)
    assert [admission.wait_s(key) for _ in range(31)] == [None] * 30 + [2]
    assert admission.wait_s(other) is None
    assert admission.wait_s(other) == 60
    now[0] = 2.0
    assert [admission.wait_s(key), admission.wait_s(key)] == [None, 2]
    now[0] = 1000.0
    assert [admission.wait_s(key) for _ in range(31)] == [None] * 30 + [2]


def test_a_key_without_a_rate_never_waits() -> None:
    key = ApiKey(name="k", sha256="0" * 64)
    assert {Admission(1).wait_s(key) for _ in range(1000)} == {None}
