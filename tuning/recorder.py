"""The sweep's memory on the driver: a Tune callback that turns trial events into records."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ray.tune import Callback

from luthier.sweep_schema import MetricPoint, TrialProgress, TrialResult, TrialStatus

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

# The last line of a traceback: an exception's dotted name, then its message.
_RAISED = re.compile(r"^(?:[A-Za-z_][\w]*\.)*([A-Za-z_]\w*)(?:\([\w.]+\))?: (.+)$", re.MULTILINE)


@dataclass
class _Running:
    """A trial as seen so far."""

    number: int
    params: dict[str, Any]
    started_s: float
    history: list[MetricPoint] = field(default_factory=list)
    result: TrialResult | None = None
    failed: Trial | None = None

    @property
    def trial_id(self) -> str:
        """Its name in leaderboard and progress."""
        return f"trial-{self.number:03d}"


class SweepRecorder(Callback):
    """Collects every trial's history and tells ``on_progress`` about each event.

    Args:
        metric: The sweep's metric.
        mode: ``min`` or ``max``.
        num_trials: Trials that will be drawn.
        reasons: Ray's trial id to why the scheduler stopped it; filled by the scheduler.
        on_progress: Called on the driver for every event; None: nobody listens.
    """

    def __init__(
        self,
        *,
        metric: str,
        mode: Literal["min", "max"],
        num_trials: int,
        reasons: Mapping[str, str],
        on_progress: Callable[[TrialProgress], None] | None,
    ) -> None:
        self._metric = metric
        self._pick = min if mode == "min" else max
        self._num_trials = num_trials
        self._reasons = reasons
        self._on_progress = on_progress
        self._trials: dict[str, _Running] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks for a restore of its own; a display can't be pickled, and is not needed for it."""
        return {**self.__dict__, "_on_progress": None}

    def results(self) -> tuple[TrialResult, ...]:
        """Every trial that was started, in the order drawn, once the sweep has ended."""
        drawn = sorted(self._trials.values(), key=lambda running: running.number)
        return tuple(self._ended(running) for running in drawn)

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Name the trial and start its clock."""
        if trial.trial_id not in self._trials:
            # Trials that run at the same time start in any order; the list has them as they were drawn.
            number = trials.index(trial) + 1
            self._trials[trial.trial_id] = _Running(number, dict(trial.config), time.monotonic())
            self._tell(self._trials[trial.trial_id], "running", None)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Keep one validation."""
        running = self._trials[trial.trial_id]
        if self._metric in result:
            point = MetricPoint(
                step=int(result.get("step", result["training_iteration"])),
                epoch=float(result.get("epoch", 0.0)),
                value=float(result[self._metric]),
            )
            running.history.append(point)
            self._tell(running, "running", point)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Close a trial that ran to its end or that the scheduler stopped."""
        running = self._trials[trial.trial_id]
        if not _sound(running.history):
            running.result = self._close(running, "failed", f"reported no finite {self._metric}")
        elif trial.trial_id in self._reasons:
            running.result = self._close(running, "stopped", self._reasons[trial.trial_id])
        else:
            running.result = self._close(running, "finished", None)
        self._tell(running, running.result.status, None)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Close a trial that raised."""
        self.on_trial_start(iteration, trials, trial)  # it may have failed before it started
        running = self._trials[trial.trial_id]
        running.failed = trial
        running.result = self._close(running, "failed", None)
        self._tell(running, "failed", None)

    def _ended(self, running: _Running) -> TrialResult:
        if running.result is None:
            return self._close(running, "failed", "the sweep ended before the trial did")
        if running.failed is None:
            return running.result
        # Tune stores the traceback only after it has told its callbacks.
        return running.result.model_copy(update={"reason": failure_reason(str(running.failed.get_error() or ""))})

    def _close(
        self, running: _Running, status: Literal["finished", "stopped", "failed"], reason: str | None
    ) -> TrialResult:
        values = _sound(running.history)
        return TrialResult(
            trial_id=running.trial_id,
            params=running.params,
            metric=self._pick(values) if values else None,
            status=status,
            reason=reason,
            wall_s=time.monotonic() - running.started_s,
            history=tuple(point for point in running.history if math.isfinite(point.value)),
        )

    def _tell(self, running: _Running, status: TrialStatus, point: MetricPoint | None) -> None:
        if self._on_progress is None:
            return
        values = [v for t in self._trials.values() for v in _sound(t.history)]
        self._on_progress(
            TrialProgress(
                trial_id=running.trial_id,
                num_trials=self._num_trials,
                params=running.params,
                status=status,
                point=point,
                best_value=self._pick(values) if values else None,
            )
        )


def failure_reason(traceback_text: str) -> str:
    """The exception that a traceback ends with, as ``Name: message`` (its first line)."""
    raised = _RAISED.findall(traceback_text)
    if not raised:
        return traceback_text.strip()[-300:] or "the trial's process ended without a word"
    name, message = raised[-1]
    return f"{name}: {message}"


def _sound(history: list[MetricPoint]) -> list[float]:
    return [point.value for point in history if math.isfinite(point.value)]
