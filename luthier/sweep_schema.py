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
