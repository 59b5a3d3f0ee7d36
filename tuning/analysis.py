"""What a sweep's trials tell: the Pareto front, whether early validations foretell the end, what the metric hangs on."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from luthier.sweep_schema import Aim, RungAgreement, SweepResult, TrialResult

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study

CONFIDENCE = 0.95
"""Of the intervals over seeds."""

MIN_TRIALS_FOR_IMPORTANCE = 4
"""With fewer there is nothing to tell a parameter's effect from chance."""

MIN_TRIALS_TO_CORRELATE = 3
"""Two trials always agree or disagree fully."""

_TOP_SHARE = 0.25
"""PED-ANOVA explains how a trial gets into this best part. optuna's 0.1 would leave one trial of a small sweep."""

_MIN_TOP = 2
"""Trials of the best part at least."""

DECADE = 10.0
"""A positive parameter whose values spread over more than this is looked at on a log scale."""


def is_sound(trial: TrialResult) -> bool:
    """Whether a trial has a value that counts: it did not fail and its metric is finite."""
    return trial.status != "failed" and trial.metric is not None and math.isfinite(trial.metric)


def standings(result: SweepResult) -> tuple[TrialResult, ...]:
    """Every trial as a leaderboard lists them.

    The winner, then the other finalists by their mean over seeds, then the rest by the metric, failed trials last.
    """
    places = {finalist.trial_id: place for place, finalist in enumerate(result.finalists)}
    places[result.best_trial_id] = -1
    return tuple(sorted(result.ranked(), key=lambda trial: places.get(trial.trial_id, len(places))))


def pareto(trials: Sequence[TrialResult], aims: Sequence[Aim]) -> tuple[str, ...]:
    """Ids of the trials that no other one beats: is at least as good in every metric and better in one.

    Args:
        trials: The sweep's. Those that failed or lack a metric are left out.
        aims: The metrics, the deciding one included.

    Returns:
        Trial ids in the order of ``trials``.
    """
    signs = [1.0 if aim.mode == "min" else -1.0 for aim in aims]
    costs = {
        trial.trial_id: [sign * trial.metrics[aim.metric] for sign, aim in zip(signs, aims, strict=True)]
        for trial in trials
        if trial.status != "failed" and all(math.isfinite(trial.metrics.get(aim.metric, math.nan)) for aim in aims)
    }

    def beaten(own: list[float]) -> bool:
        return any(other != own and all(o <= s for o, s in zip(other, own, strict=True)) for other in costs.values())

    return tuple(trial_id for trial_id, own in costs.items() if not beaten(own))


def rung_agreement(trials: Sequence[TrialResult], mode: Literal["min", "max"]) -> tuple[RungAgreement, ...]:
    """Rank correlation (Spearman) between the values at each validation and those at the last.

    Compared are the finished trials with the most validations: those that the scheduler stopped have no end to compare
    with, so the correlation says nothing about them.

    Args:
        trials: The sweep's.
        mode: Whether less or more of the metric is better. A value that is missing, as it was not finite, counts as the
            worst.

    Returns:
        One entry per validation before the last, at which the correlation would be 1 by definition.
    """
    values = [_by_validation(trial) for trial in trials if trial.status == "finished" and trial.history]
    last = max((max(by_validation) for by_validation in values), default=0)
    compared = [by_validation for by_validation in values if last in by_validation]
    worst = math.inf if mode == "min" else -math.inf
    ends = [by_validation[last] for by_validation in compared]
    return tuple(
        RungAgreement(
            validation=validation,
            num_trials=len(compared),
            spearman=_spearman([by_validation.get(validation, worst) for by_validation in compared], ends),
        )
        for validation in range(1, last)
    )


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean of a metric over seeds with the ends of its 95 % interval (Student's t).

    Returns:
        Mean, low, high. Of a single value all three are that value: how far it would spread is not known, and an
        infinite interval could not be written as JSON. Say "one seed" where it is shown.

    Raises:
        ValueError: There are no values.
    """
    from scipy import stats

    if not values:
        raise ValueError("an interval needs at least one value.")
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, mean, mean
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, len(values) - 1)) * spread / math.sqrt(len(values))
    return mean, mean - half, mean + half


def importances(result: SweepResult) -> dict[str, float]:
    """How much each hyperparameter decides whether a trial is among the best quarter.

    By optuna's conditional PED-ANOVA (https://arxiv.org/abs/2601.20800): it looks only at which trials are the best,
    and a parameter that some trials lack counts where it is set. So trials only need an order, and a value at few
    validations is never compared with one at many: finished trials come first, by their metric, then the stopped ones,
    those that were let go further before the others.

    Returns:
        Parameter to its share of the importance, the largest first; together 1. Empty where fewer than four trials have
        a sound value, or no parameter varies.
    """
    trials = [trial for trial in result.ranked() if is_sound(trial)]
    if len(trials) < MIN_TRIALS_FOR_IMPORTANCE:
        return {}
    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    trials.sort(key=lambda trial: (trial.status != "finished", -_reached(trial) if trial.status == "stopped" else 0))
    paths = dict.fromkeys(path for trial in trials for path in trial.params)
    spaces = {path: _distribution([t.params[path] for t in trials if path in t.params]) for path in paths}
    if all(space.single() for space in spaces.values()):
        return {}
    evaluator = PedAnovaImportanceEvaluator(target_quantile=max(_TOP_SHARE, _MIN_TOP / len(trials)))
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # it tells of every study that is made
    try:
        found = get_param_importances(_study(trials, spaces), evaluator=evaluator)
    finally:
        optuna.logging.set_verbosity(level)
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _study(trials: Sequence[TrialResult], spaces: Mapping[str, BaseDistribution]) -> Study:
    """The trials, the best first, as optuna's; their value is their place."""
    import optuna

    study = optuna.create_study(direction="minimize")
    for place, trial in enumerate(trials):
        study.add_trial(
            optuna.trial.create_trial(
                params={path: _plain(value, spaces[path]) for path, value in trial.params.items()},
                distributions={path: spaces[path] for path in trial.params},
                value=float(place),
            )
        )
    return study


def _distribution(values: Sequence[Any]) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not is_numeric(values):
        return CategoricalDistribution(sorted({as_json(value) for value in values}))
    kind = IntDistribution if all(isinstance(value, int) for value in values) else FloatDistribution
    return kind(min(values), max(values), log=spreads(values))


def _plain(value: Any, space: BaseDistribution) -> Any:
    from optuna.distributions import CategoricalDistribution

    return as_json(value) if isinstance(space, CategoricalDistribution) else value


def is_numeric(values: Sequence[Any]) -> bool:
    """Whether a parameter's values are finite numbers, so that they have an order."""
    return all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values)


def spreads(values: Sequence[float]) -> bool:
    """Whether numbers belong on a log scale: all positive and over more than a decade."""
    return min(values) > 0 and max(values) / min(values) > DECADE


def as_json(value: Any) -> str:
    """A parameter's value as text that tells ``1``, ``"1"`` and ``null`` apart."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)


def _reached(trial: TrialResult) -> int:
    return max(_by_validation(trial), default=0)


def _by_validation(trial: TrialResult) -> Mapping[int, float]:
    return {point.validation or place: point.value for place, point in enumerate(trial.history, start=1)}


def _spearman(values: Sequence[float], ends: Sequence[float]) -> float | None:
    from scipy import stats

    if len(values) < MIN_TRIALS_TO_CORRELATE or len(set(values)) == 1 or len(set(ends)) == 1:
        return None
    return float(stats.spearmanr(values, ends).statistic)
