"""The bootstrap: its resamples, its percentiles, and whether the intervals cover the truth as often as they say."""

from __future__ import annotations

import numpy as np
import pytest

from luthier.trainers.evaluation import intervals


def test_resamples_are_whole_in_range_and_repeatable() -> None:
    first = np.concatenate(list(intervals.resamples(50, 300, seed=3)))
    assert first.shape == (300, 50)
    assert set(np.unique(first)) == set(range(50))
    assert (first == np.concatenate(list(intervals.resamples(50, 300, seed=3)))).all()
    assert (first != np.concatenate(list(intervals.resamples(50, 300, seed=4)))).any()


def test_chunks_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "_CHUNK_INDICES", 100)
    chunks = list(intervals.resamples(40, 7, seed=0))
    assert [chunk.shape for chunk in chunks] == [(2, 40), (2, 40), (2, 40), (1, 40)]
    assert len({chunk.tobytes() for chunk in chunks[:3]}) == 3


def test_the_interval_is_the_percentiles() -> None:
    found = intervals.interval(0.3, np.arange(101) / 100, 0.9)
    assert found.value == 0.3
    assert [found.low, found.high] == pytest.approx([0.05, 0.95])


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_coverage_is_near_what_is_claimed(confidence: float) -> None:
    generator = np.random.default_rng(0)
    truth, trials, covered = 0.7, 400, 0
    for trial in range(trials):
        values = (generator.random(150) < truth).astype(float)
        statistic = intervals.mean_statistic("accuracy", values)
        samples = np.concatenate([statistic(rows)["accuracy"] for rows in intervals.resamples(150, 400, trial)])
        found = intervals.interval(float(values.mean()), samples, confidence)
        covered += found.low <= truth <= found.high
    assert covered / trials == pytest.approx(confidence, abs=0.045)
