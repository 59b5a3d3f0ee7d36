"""What picking the best of many trials does to the winner's figure, and whether the winner differs from the runner-up."""

from __future__ import annotations

import math
from dataclasses import dataclass

from luthier.sweep_schema import Finalist, SweepResult
from luthier.trainers.evaluation.significance import holm
from luthier.tuning.analysis import is_sound


@dataclass(frozen=True)
class Rivalry:
    """The winner held against the runner-up, by the seeds that had no part in making them finalists.

    Attributes:
        runner_up: Trial id.
        p_value: Of Welch's t-test (1947), two-sided.
        p_adjusted: The same, adjusted by Holm's method for the comparisons with all other finalists.
        comparisons: How many those are.
    """

    runner_up: str
    p_value: float
    p_adjusted: float
    comparisons: int


def rivalry(result: SweepResult) -> Rivalry | None:
    """Whether the winner differs from the runner-up by more than the seeds do.

    A trial's own seed is left out: by its figure it became a finalist, so it is too good on average.

    Returns:
        None where either has fewer than two other seeds, or nothing differs among them.
    """
    winner = next((one for one in result.finalists if one.trial_id == result.best_trial_id), None)
    others = [one for one in result.finalists if one.trial_id != result.best_trial_id]
    if winner is None:
        return None
    tested = [(one, p_value) for one in others if (p_value := _p_value(winner, one)) is not None]
    if not tested or tested[0][0] is not others[0]:
        return None
    adjusted = holm([p_value for _, p_value in tested])
    return Rivalry(others[0].trial_id, tested[0][1], adjusted[0], len(tested))


def _p_value(one: Finalist, other: Finalist) -> float | None:
    from scipy.stats import ttest_ind

    first, second = one.values[1:], other.values[1:]
    if min(len(first), len(second)) < 2 or len({*first}) == len({*second}) == 1:
        return None
    found = float(ttest_ind(first, second, equal_var=False).pvalue)
    return found if math.isfinite(found) else None


def selection_note(result: SweepResult) -> str | None:
    """How far the winner's figure can be trusted, in two sentences; None where there was nothing to choose from."""
    num_trials = sum(map(is_sound, result.trials))
    if num_trials < 2:
        return None
    picked = (
        f"the winner was picked among {num_trials} trials by {result.metric} on the validation split, so this figure of "
        "it is likely better than what new data will show; the test split had no part in it"
    )
    found = rivalry(result)
    if found is None:
        return (
            f"{picked}. Whether it beats the runner-up by more than chance is not known; tune.seeds of 3 or more tells."
        )
    verdict = "differ" if found.p_adjusted < 0.05 else "can't be told apart"
    adjusted = f", {found.p_adjusted:.2g} adjusted for {found.comparisons} comparisons (Holm)"
    return (
        f"{picked}. By the seeds that did not choose them, winner and runner-up ({found.runner_up}) {verdict} "
        f"(Welch's p = {found.p_value:.2g}{adjusted if found.comparisons > 1 else ''})."
    )
