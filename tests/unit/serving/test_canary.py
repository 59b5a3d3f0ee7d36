"""A canary's share, who gets it, and when it is ended."""

from __future__ import annotations

from collections import Counter

import pytest

from luthier.config.serve import CanaryConfig
from luthier.serving.canary import CanaryWatch
from luthier.serving.keys import ApiKey
from luthier.serving.names import Ability, Names, Split
from luthier.serving.record import Record

SPLIT = Split("demo@2", "demo@1", 0.1)
KEY = ApiKey(name="master", sha256="0" * 64)
LIMITS = CanaryConfig(min_requests=10, window_requests=20, max_error_rate=0.2, max_latency_ratio=2.0)


def feed(watch: CanaryWatch, model: str, *, statuses: list[int], first_s: float = 0.1) -> None:
    for status in statuses:
        watch.saw(Record("r", "chat", "k", model=model, status=status, first_s=first_s if status == 200 else None))


def test_a_user_stays_with_a_version_and_the_share_is_kept() -> None:
    users = [f"user-{number}" for number in range(5000)]
    chosen = {user: SPLIT.choose(user) for user in users}
    assert chosen == {user: SPLIT.choose(user) for user in users}
    assert Counter(chosen.values())["demo@2"] == pytest.approx(500, abs=100)
    # A greater share takes no one back from the canary.
    larger = Split("demo@2", "demo@1", 0.5)
    assert all(larger.choose(user) == "demo@2" for user in users if chosen[user] == "demo@2")


def test_the_request_says_for_whom_it_is_or_else_the_key_does() -> None:
    names = Names(
        {"demo": "demo@1", "demo@1": "demo@1", "demo@2": "demo@2"},
        {"demo@1": "base", "demo@2": "base"},
        {"base": Ability("generate", 64)},
        0,
        splits={"demo": Split("demo@2", "demo@1", 0.5)},
    )
    assert {names.resolve("demo", KEY, f"user-{number}") for number in range(50)} == {"demo@1", "demo@2"}
    assert len({names.resolve("demo", KEY) for _ in range(50)}) == 1
    assert names.resolve("demo@1", KEY, "anyone") == "demo@1"
    assert names.card("demo", KEY)["root"] == "demo@1"


@pytest.mark.parametrize(
    ("canary", "stable", "ended"),
    [
        ([500] * 9, [200] * 20, False),  # too few to judge
        ([500] * 10, [200] * 20, True),
        ([422] * 5 + [200] * 5, [200] * 20, True),
        ([408] * 5 + [200] * 5, [], True),
        ([500] * 5 + [200] * 5, [500] * 10 + [200] * 10, False),  # both fail alike
        ([400, 404, 429, 499] * 10 + [200] * 10, [200] * 20, False),  # the clients' doing
        ([500] * 10 + [200] * 20, [200] * 20, False),  # long ago
    ],
)
def test_a_canary_that_fails_more_often_is_ended(canary: list[int], stable: list[int], ended: bool) -> None:
    watch = CanaryWatch(LIMITS)
    feed(watch, "demo@2", statuses=canary)
    feed(watch, "demo@1", statuses=stable)
    breach = watch.breach(SPLIT)
    assert (breach is not None) is ended
    if breach is not None:
        assert "demo@2 failed in" in breach.reason
        assert breach.figures["canary_error_rate"] > breach.figures["stable_error_rate"] + 0.2


def test_a_slow_canary_is_ended_once_both_have_been_seen() -> None:
    watch = CanaryWatch(LIMITS)
    feed(watch, "demo@2", statuses=[200] * 10, first_s=0.5)
    assert watch.breach(SPLIT) is None
    feed(watch, "demo@1", statuses=[200] * 10, first_s=0.2)
    breach = watch.breach(SPLIT)
    assert breach is not None
    assert breach.figures == {"canary_first_s": 0.5, "stable_first_s": 0.2, "requests": 10}
    watch.forget(["demo@2", "demo@1"])
    assert watch.breach(SPLIT) is None
