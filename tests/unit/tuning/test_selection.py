"""What is said of a winner that was picked among many."""

from __future__ import annotations

import random

import pytest
from scipy.stats import ttest_ind

from luthier.sweep_schema import Finalist, SweepResult
from luthier.tuning.analysis import mean_interval
from luthier.tuning.leaderboard import leaderboard_table
from luthier.tuning.report import sweep_page
from luthier.tuning.selection import rivalry, selection_note
from tests.unit.tuning.made_up import made_up_sweep


def finalist(trial_id: str, *values: float) -> Finalist:
    mean, low, high = mean_interval(values)
    return Finalist(trial_id=trial_id, values=values, mean=mean, low=low, high=high)


def sweep(*finalists: Finalist) -> SweepResult:
    made = made_up_sweep(12)
    best = finalists[0].trial_id if finalists else made.best_trial_id
    return made.model_copy(update={"finalists": finalists, "best_trial_id": best})


def test_the_seed_that_chose_a_finalist_has_no_say() -> None:
    first, second = (1.0, 2.0, 2.1, 2.2), (9.0, 2.9, 3.0, 3.4)
    found = rivalry(
        sweep(finalist("trial-003", *first), finalist("trial-005", *second), finalist("trial-001", 2, 4, 5))
    )
    assert found is not None
    assert (found.runner_up, found.comparisons) == ("trial-005", 2)
    assert found.p_value == pytest.approx(ttest_ind(first[1:], second[1:], equal_var=False).pvalue)
    assert found.p_value <= found.p_adjusted <= 2 * found.p_value


@pytest.mark.parametrize(
    "finalists",
    [(), (finalist("trial-003", 1, 2, 3),), (finalist("trial-003", 1, 2), finalist("trial-005", 1, 2))],
    ids=["no seeds", "one finalist", "one more seed"],
)
def test_without_seeds_nothing_is_claimed(finalists: tuple[Finalist, ...]) -> None:
    result = sweep(*finalists)
    assert rivalry(result) is None
    note = selection_note(result)
    assert note is not None
    assert "is not known; tune.seeds of 3 or more tells" in note


def test_finalists_of_one_kind_are_seldom_told_apart() -> None:
    generator, found = random.Random(0), 0
    for _ in range(200):
        drawn = [[generator.gauss(1.0, 0.1) for _ in range(5)] for _ in range(6)]
        best = sorted(drawn, key=lambda values: values[0])[:3]  # those that luck made finalists
        rivals = sweep(*(finalist(f"trial-00{n}", *values) for n, values in enumerate(best, start=1)))
        told = rivalry(rivals)
        assert told is not None
        found += told.p_adjusted < 0.05
    assert found / 200 < 0.07


def test_it_stands_below_the_leaderboard_and_in_the_report() -> None:
    result = made_up_sweep(12, finalists=3)
    note = selection_note(result)
    assert note is not None
    assert "picked among" in note
    assert note in str(leaderboard_table(result).caption)
    assert "picked among" in sweep_page("demo", result)
    alone = result.model_copy(update={"trials": (result.best,)})
    assert selection_note(alone) is None
