"""Figures of the last minutes."""

from __future__ import annotations

from typing import Any

import pytest

from luthier.serving.recent import _MOST_REQUESTS, NONE, WINDOW_S, Recent
from luthier.serving.record import Record


def ended(model: str = "demo@1", status: int = 200, **fields: Any) -> Record:
    return Record("id", "chat", "master", model=model, status=status, **fields)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_figures_are_of_each_version_and_of_the_time_that_was_seen(clock: Clock) -> None:
    recent = Recent(clock)
    clock.now += 10
    for first_s in (0.1, 0.2, 0.3, 4.0):
        recent.saw(ended(stream=True, first_s=first_s, prompt_tokens=5, completion_tokens=10))
    recent.saw(ended(first_s=9.0))  # no stream: its first piece is its last
    recent.saw(ended(status=500))
    recent.saw(ended(status=422))
    recent.saw(ended(status=499))
    recent.saw(ended(status=429))
    recent.saw(ended("other", completion_tokens=1))
    figures = recent.figures()
    one = figures["demo@1"]
    assert (one.requests, one.failed) == (9, 2)
    assert (one.requests_per_s, one.prompt_tokens_per_s, one.tokens_per_s) == (0.9, 2.0, 4.0)
    assert (one.ttft_p50_s, one.ttft_p95_s) == (0.2, 4.0)
    assert one.as_dict()["error_rate"] == 0.2222
    assert figures["other"].ttft_p50_s is None
    assert NONE.as_dict()["error_rate"] == 0.0


def test_what_is_older_than_the_window_is_forgotten(clock: Clock) -> None:
    recent = Recent(clock)
    recent.saw(ended())
    clock.now += WINDOW_S + 1
    recent.saw(ended("other"))
    assert set(recent.figures()) == {"other"}
    assert recent.window_s == WINDOW_S


def test_of_very_many_requests_the_last_ones_count_for_the_time_that_they_took(clock: Clock) -> None:
    recent = Recent(clock)
    for _ in range(_MOST_REQUESTS + 100):
        clock.now += 0.01
        recent.saw(ended())
    assert recent.window_s == pytest.approx(0.01 * _MOST_REQUESTS)
    assert recent.figures()["demo@1"].requests_per_s == pytest.approx(100, rel=0.01)
