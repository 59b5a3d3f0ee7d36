"""What a sweep tried and found, as data that every other stage can read. Imports neither torch nor ray."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

TrialStatus = Literal["running", "finished", "stopped", "failed"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class MetricPoint(_Record):
    """The sweep's metric at one validation."""

    step: int
    """Optimizer step."""

    epoch: float
    """Passes over the training rows so far."""

    value: float
    """Value of the sweep's metric."""

    validation: int = 0
    """Which validation of the trial it is, counted from 1."""

    elapsed_s: float = 0.0
    """Seconds of the trial until then, start-up included."""

    metrics: dict[str, float] = {}
    """Values of all the metrics that the sweep looks at."""


class Aim(_Record):
    """A metric that the sweep looks at."""

    metric: str
    """Its name in the metrics stream."""

    mode: Literal["min", "max"]
    """Whether less or more of it is better."""


class TrialResult(_Record):
    """One trial, ended."""

    trial_id: str
    """Name within the sweep, in the order the trials were drawn: ``trial-001``."""

    params: dict[str, Any]
    """Dotted config path to the value that was drawn."""

    metric: float | None
    """Best value of the sweep's metric over the trial; None where it reported none."""

    status: Literal["finished", "stopped", "failed"]
    """``stopped``: ended early by the scheduler. ``failed``: it raised, and can't win."""

    reason: str | None = None
    """Why it was stopped or failed."""

    wall_s: float
    """Seconds from the trial's start to its end, start-up included."""

    history: tuple[MetricPoint, ...] = ()
    """The metric at every validation."""

    metrics: dict[str, float] = {}
    """All metrics at the validation whose value is ``metric``."""

    held: dict[str, float] = {}
    """Resource name to seconds times amount that the trial held."""

    attempts: int = 1
    """How often it was started; above 1 where it failed and was tried again."""


class RungAgreement(_Record):
    """How well the order of trials at a validation foretells their order at the end."""

    validation: int
    """Which validation of each trial, counted from 1."""

    num_trials: int
    """Trials that were not stopped and got to the last validation, which are compared."""

    spearman: float | None
    """Rank correlation; None where fewer than three trials got to the end, or all are equal."""


class Finalist(_Record):
    """A trial that was repeated with other seeds."""

    trial_id: str
    """The trial whose values were repeated."""

    values: tuple[float, ...]
    """The sweep's metric by seed, the trial's own first; failed repeats are missing."""

    mean: float
    """Over the seeds."""

    low: float
    """Lower end of the 95 % interval of the mean (Student's t)."""

    high: float
    """Upper end."""


class Spent(_Record):
    """What a sweep cost."""

    trials: int
    """Trials that were started."""

    wall_s: float
    """Seconds from its start to its end; of a sweep that was cut off, the sum over its parts."""

    cpu_hours: float
    """CPUs held by trials times hours."""

    gpu_hours: float
    """GPUs held by trials times hours."""

    by_status: dict[str, float]
    """Status of trials, and ``seeds`` for repeats, to the accelerator-hours that went there (CPU-hours without GPUs)."""

    ended_by: str | None = None
    """What of the budget was used up, if that ended the sweep."""


class SweepResult(_Record):
    """A sweep, ended with a winner."""

    schema_version: int = 1
    """Version of this layout."""

    metric: str
    """What the trials were judged by."""

    mode: Literal["min", "max"]
    """Whether less or more of it is better."""

    trials: tuple[TrialResult, ...] = Field(min_length=1)
    """Every trial, in the order drawn."""

    best_trial_id: str
    """The winner."""

    winning_overrides: dict[str, Any]
    """The winner's drawn values, ready for ``apply_overrides``."""

    wall_s: float
    """Seconds the whole sweep took."""

    max_concurrent_trials: int
    """Trials that ran at a time."""

    more_metrics: tuple[Aim, ...] = ()
    """Other metrics that are shown beside the one that decides."""

    pareto: tuple[str, ...] = ()
    """Trials that no other one beats in all metrics; empty with a single metric."""

    rung_agreement: tuple[RungAgreement, ...] = ()
    """Whether early validations foretell the end, by validation."""

    finalists: tuple[Finalist, ...] = ()
    """The best trials over several seeds, the best mean first; empty where no seeds were asked for."""

    spent: Spent | None = None
    """What it cost."""

    registered_as: str | None = None
    """The winner's version, trained at full length; None: nothing was asked to be registered."""

    directory: str | None = None
    """Where the report, the tables and the winner's config are; None in these files themselves."""

    @property
    def best(self) -> TrialResult:
        """The winning trial."""
        return next(trial for trial in self.trials if trial.trial_id == self.best_trial_id)

    def ranked(self) -> tuple[TrialResult, ...]:
        """Every trial, the best first, those without a sound metric last."""
        sign = 1.0 if self.mode == "min" else -1.0
        sound = [t for t in self.trials if t.metric is not None and t.status != "failed"]
        rest = [t for t in self.trials if t.metric is None or t.status == "failed"]
        return (*sorted(sound, key=lambda t: sign * (t.metric or 0.0)), *rest)


class TrialProgress(_Record):
    """A trial started, validated or ended: what a progress display needs."""

    trial_id: str
    """Name within the sweep."""

    num_trials: int
    """Trials that the sweep will draw."""

    params: dict[str, Any]
    """The trial's drawn values."""

    status: TrialStatus
    """Where the trial stands."""

    point: MetricPoint | None = None
    """The newest validation, if there was one."""

    best_value: float | None = None
    """Best value of the metric so far over the whole sweep."""
