"""Which trials go on: Ray Tune's schedulers, with the reason of every stop kept.

Time is counted in validations, so that rungs depend neither on batch size nor on data size. A trial's learning-rate
schedule is that of its whole length, whichever rung it gets to.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    HyperBandScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    TrialScheduler,
)
from ray.tune.schedulers.pb2 import PB2

from luthier.config import RunConfig
from luthier.config.domains import Choice, Domain, Grid, LogUniform, QUniform
from luthier.config.train import TrainConfig
from luthier.config.tune import TuneConfig
from luthier.errors import ConfigError
from luthier.tuning.record import SweepRecord, TrialRecord
from luthier.tuning.space import sweep_of, trial_config
from luthier.tuning.trial import NUMBER

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController
    from ray.tune.experiment import Trial

_TIME = "validation"

# Rungs grow geometrically, so a far-away last rung costs nothing; it only must lie beyond any trial's last
# validation, because ASHA stops a trial that reaches it.
MAX_VALIDATIONS = 10**6

_MEDIAN_OF = 3
"""Trials that must have got as far before one is compared with their median."""


class _Reasoned(TrialScheduler):
    """Remembers why it stopped a trial.

    Attributes:
        reasons: Ray's trial id to one sentence.
    """

    reasons: dict[str, str]

    def on_trial_result(self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]) -> str:
        """The scheduler's decision, noted where it is to stop."""
        decision: str = super().on_trial_result(tune_controller, trial, result)  # type: ignore[safe-super]
        if decision == TrialScheduler.STOP:
            self._note(trial, result)
        return decision

    def _note(self, trial: Trial, result: dict[str, Any]) -> None:
        metric = str(self.metric)
        self.reasons[trial.trial_id] = f"{metric} {result[metric]:.4g} fell behind at validation {result[_TIME]}"


class _Past:
    """A trial of an earlier command, as far as a scheduler looks at one."""

    def __init__(self, record: TrialRecord) -> None:
        self.trial_id = record.trial_id


class Asha(_Reasoned, AsyncHyperBandScheduler):
    """Asynchronous successive halving (Li et al. 2020)."""

    def __init__(self, tune: TuneConfig, record: SweepRecord) -> None:
        factor, grace = tune.reduction_factor, tune.grace_period
        super().__init__(time_attr=_TIME, max_t=MAX_VALIDATIONS, grace_period=grace, reduction_factor=factor)
        self.reasons = {}
        self._record = record

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Told the metric, it learns how far trials of earlier commands got."""
        told: bool = super().set_search_properties(metric, mode, **spec)
        for trial in self._record.drawn:
            if trial.status is not None:
                super().on_trial_add(None, _Past(trial))
                self._remember(_Past(trial), trial)
        return told

    def on_trial_add(self, tune_controller: TuneController, trial: Trial) -> None:
        """A trial, perhaps one that has been validated before."""
        super().on_trial_add(tune_controller, trial)
        self._remember(trial, self._record.trials[trial.config[NUMBER]])

    def _remember(self, trial: Any, record: TrialRecord) -> None:
        for result in _results(record, str(self.metric)):
            AsyncHyperBandScheduler.on_trial_result(self, None, trial, result)


class Median(_Reasoned, MedianStoppingRule):
    """Stops a trial whose best value is worse than the median of the others' running means (Golovin et al. 2017)."""

    def __init__(self, tune: TuneConfig, record: SweepRecord) -> None:
        super().__init__(time_attr=_TIME, grace_period=tune.grace_period, min_samples_required=_MEDIAN_OF)
        self.reasons = {}
        self._record = record
        self._sweeps_metric = tune.metric
        for trial in record.drawn:
            if trial.status is not None and trial.history:
                self._results[_Past(trial)].extend(_results(trial, tune.metric))

    def on_trial_add(self, tune_controller: TuneController, trial: Trial) -> None:
        """A trial, perhaps one that has been validated before."""
        super().on_trial_add(tune_controller, trial)
        if past := _results(self._record.trials[trial.config[NUMBER]], self._sweeps_metric):
            self._results[trial].extend(past)


class HyperBand(_Reasoned, HyperBandScheduler):
    """HyperBand (Li et al. 2018): brackets of trials that wait for one another.

    A waiting trial holds no resources, and a bracket is halved once all of its trials have got as far; so Ray Tune must be
    allowed as many trials as there are.

    Attributes:
        reasons: As those of the other schedulers. Ray Tune stops a trial at its last validation as well, which is no
            reason.
    """

    def __init__(self, tune: TuneConfig, max_validations: int) -> None:
        super().__init__(time_attr=_TIME, max_t=max_validations, reduction_factor=tune.reduction_factor)
        self.reasons = {}
        self._max_validations = max_validations

    def on_trial_remove(self, tune_controller: TuneController, trial: Trial) -> None:
        """A trial that leaves its bracket: at its end, by a failure, or, while it waits, because its bracket is halved.

        Where it was the last that others waited for, Ray would have them wait for ever once their bracket was halved.
        """
        bracket, _ = self._trial_info[trial]
        if bracket.is_being_processed:
            self._note(trial, trial.last_result)
        super().on_trial_remove(tune_controller, trial)
        if not bracket.is_being_processed and bracket.finished():
            bracket.cleanup_full(tune_controller)

    def _process_bracket(self, tune_controller: TuneController, bracket: Any) -> str:
        """Halve a bracket, if all of its trials have got as far; Ray leaves it marked as being halved."""
        decision: str = super()._process_bracket(tune_controller, bracket)
        bracket.is_being_processed = False
        return decision

    def _note(self, trial: Trial, result: dict[str, Any]) -> None:
        if result[_TIME] < self._max_validations:
            super()._note(trial, result)


class Pbt(PopulationBasedTraining):
    """Population based training (Jaderberg et al. 2017): weak trials go on from strong ones with changed settings.

    The trials are those of :class:`~luthier.tuning.source.TrialSource`; each keeps its number.

    Args:
        space: The domains, which changed settings do not leave.
        settings: Ray's own.
    """

    def __init__(self, space: Mapping[str, Domain], **settings: Any) -> None:
        super().__init__(time_attr=_TIME, **settings)
        self._space = space

    def on_trial_add(self, tune_controller: TuneController, trial: Trial) -> None:
        """Ray Tune refuses searchers beside a population, as they would learn from changed settings; ours only numbers."""
        super().on_trial_add(SimpleNamespace(search_alg=None), trial)

    def _get_new_config(self, trial: Trial, trial_to_clone: Trial) -> Any:
        config, operations = super()._get_new_config(trial, trial_to_clone)
        kept = {path: _within(domain, config[path]) for path, domain in self._space.items()}
        return {**config, **kept, NUMBER: trial.config[NUMBER]}, operations


class Pb2(Pbt, PB2):
    """Population based bandits (Parker-Holder et al. 2020): the changes are proposed by a Gaussian process."""


def make_scheduler(cfg: RunConfig, record: SweepRecord) -> TrialScheduler:
    """The scheduler that the config names, told how far trials of earlier commands got.

    Raises:
        ConfigError: HyperBand can't tell how often a trial is validated.
    """
    tune = sweep_of(cfg)
    if tune.scheduler == "asha":
        return Asha(tune, record)
    if tune.scheduler == "median":
        return Median(tune, record)
    if tune.scheduler == "hyperband":
        return HyperBand(tune, _validations(trial_config(cfg, {}).train))
    if tune.scheduler == "pbt":
        mutations = {path: _mutation(domain) for path, domain in tune.search_space.items()}
        return Pbt(tune.search_space, perturbation_interval=tune.grace_period, hyperparam_mutations=mutations)
    if tune.scheduler == "pb2":
        bounds = {p: [one.low, one.high] for p, one in tune.search_space.items() if not isinstance(one, Choice | Grid)}
        return Pb2(tune.search_space, perturbation_interval=tune.grace_period, hyperparam_bounds=bounds)
    return FIFOScheduler()  # type: ignore[no-untyped-call]


def _results(record: TrialRecord, metric: str) -> list[dict[str, Any]]:
    """A trial's past, as Ray Tune tells schedulers of it."""
    return [{_TIME: point.validation, metric: point.value} for point in record.history]


def _mutation(domain: Domain) -> Any:
    from ray import tune as ray_tune

    if isinstance(domain, Choice):
        return list(domain.values)
    if isinstance(domain, LogUniform):
        return ray_tune.loguniform(domain.low, domain.high)
    if isinstance(domain, QUniform):
        return ray_tune.quniform(domain.low, domain.high, domain.q)
    return ray_tune.uniform(domain.low, domain.high)  # type: ignore[union-attr]


def _within(domain: Domain, value: Any) -> Any:
    """The nearest value that a domain has: Ray multiplies numbers by 0.8 or 1.2."""
    if isinstance(domain, Choice | Grid):
        return value
    if isinstance(domain, QUniform):
        value = round(value / domain.q) * domain.q
    return min(max(value, domain.low), domain.high)


def _validations(train: TrainConfig) -> int:
    if train.eval_steps and train.max_steps:
        return math.ceil(train.max_steps / train.eval_steps)
    if not train.eval_steps and not train.max_steps:
        return train.num_train_epochs
    raise ConfigError(
        "tune.scheduler: hyperband must know how often a trial is validated; set train.max_steps and train.eval_steps in "
        "tune.overrides, or neither, or use asha."
    )
