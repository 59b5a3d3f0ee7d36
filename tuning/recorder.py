"""Ray Tune's events, noted in the sweep's log and told to whoever watches."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray.tune import Callback

from luthier.config.tune import TuneConfig
from luthier.sweep_schema import MetricPoint, TrialProgress, TrialStatus
from luthier.tuning.record import SweepLog, TrialRecord, total
from luthier.tuning.trial import NUMBER

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

# The last line of a traceback: an exception's dotted name, then its message.
_RAISED = re.compile(r"^(?:[A-Za-z_][\w]*\.)*([A-Za-z_]\w*)(?:\([\w.]+\))?: (.+)$", re.MULTILINE)

Demand = Callable[[Mapping[str, Any]], Mapping[str, float]]


class SweepRecorder(Callback):
    """Notes every event of every trial, with what it held since the last one.

    Args:
        log: Where it is noted.
        tune: The sweep's settings.
        demand: Resource name to amount that a trial with the given values holds.
        reasons: Ray's trial id to why the scheduler stopped it; filled by the scheduler.
        on_progress: Called on the driver for every event; None: nobody listens.
    """

    def __init__(
        self,
        log: SweepLog,
        tune: TuneConfig,
        demand: Demand,
        reasons: Mapping[str, str],
        on_progress: Callable[[TrialProgress], None] | None,
    ) -> None:
        self._log = log
        self._tune = tune
        self._demand = demand
        self._reasons = reasons
        self._on_progress = on_progress
        self._since: dict[int, float] = {}
        self._amounts: dict[int, Mapping[str, float]] = {}
        self.longest_wait_s = 0.0
        """Longest time so far between two validations of a trial, or its start and its first."""

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks for a restore of its own, which is not used."""
        return {}

    def held(self) -> dict[str, float]:
        """Resource name to seconds times amount, of all trials up to now."""
        now = time.monotonic()
        running = (
            {name: amount * (now - since) for name, amount in self._amounts[n].items()}
            for n, since in self._since.items()
        )
        return total((self._log.record.held(), *running))

    def held_at_once(self) -> dict[str, float]:
        """Resource name to amount, of the trials that run now."""
        return total(self._amounts[number] for number in self._since)

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Start the trial's clock."""
        record = self._record(trial)
        self._note_changes(trial, record)
        self._amounts[record.number] = self._demand(record.params)
        self._since[record.number] = time.monotonic()
        self._tell(record, "running", None)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Keep one validation."""
        record = self._record(trial)
        if self._tune.metric not in result:
            return
        self._note_changes(trial, record)
        metrics = {name: float(result[name]) for name in self._tune.metrics if name in result}
        used = self._used(record, goes_on=True)
        self.longest_wait_s = max(self.longest_wait_s, used["ran_s"])
        self._log.note(
            event="validated",
            trial=record.number,
            step=int(result.get("step", result["validation"])),
            epoch=float(result.get("epoch", 0.0)),
            validation=int(result["validation"]),
            metrics=metrics,
            **used,
        )
        self._tell(record, "running", record.history[-1])

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Close a trial that ran to its end or that the scheduler stopped."""
        record = self._record(trial)
        if record.best(self._tune.mode) is None:
            self._end(record, "failed", f"reported no finite {self._tune.metric}")
        elif trial.trial_id in self._reasons:
            self._end(record, "stopped", self._reasons[trial.trial_id])
        else:
            self._end(record, "finished", None)

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A trial failed, and is started again."""
        record = self._record(trial)
        used = self._used(record, goes_on=False)
        self._log.note(event="retried", trial=record.number, reason=failure_reason(_traceback(trial)), **used)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A trial failed for good."""
        self._end(self._record(trial), "failed", failure_reason(_traceback(trial)))

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Stop the clocks of trials that wait."""
        for trial in trials:
            if trial.status == "PAUSED":
                self._since.pop(trial.config[NUMBER], None)

    def close(self, reason: str | None) -> None:
        """After the last step: close the trials that ran when the budget was used up.

        Args:
            reason: What of it was; None: the sweep did not end by its budget.
        """
        for record in list(self._log.record.trials.values()):
            if reason and record.status is None:
                sound = record.best(self._tune.mode) is not None
                self._end(record, "stopped" if sound else "failed", reason)

    def _end(self, record: TrialRecord, status: TrialStatus, reason: str | None) -> None:
        used = self._used(record, goes_on=False)
        self._log.note(event="ended", trial=record.number, status=status, reason=reason, **used)
        self._tell(record, status, None)

    def _record(self, trial: Trial) -> TrialRecord:
        return self._log.record.trials[trial.config[NUMBER]]

    def _note_changes(self, trial: Trial, record: TrialRecord) -> None:
        params = {path: value for path, value in trial.config.items() if path != NUMBER}
        if params != record.params:
            self._log.note(event="changed", trial=record.number, params=params)

    def _used(self, record: TrialRecord, *, goes_on: bool) -> dict[str, Any]:
        """What the trial held since this was last asked, and for how long."""
        now = time.monotonic()
        since = self._since.pop(record.number, now)
        if goes_on:
            self._since[record.number] = now
        amounts = self._amounts.get(record.number, {})
        return {"ran_s": now - since, "held": {name: amount * (now - since) for name, amount in amounts.items()}}

    def _tell(self, record: TrialRecord, status: TrialStatus, point: MetricPoint | None) -> None:
        if self._on_progress is None:
            return
        self._on_progress(
            TrialProgress(
                trial_id=record.trial_id,
                num_trials=max(self._tune.num_trials, len(self._log.record.trials)),
                params=record.params,
                status=status,
                point=point,
                best_value=self._log.record.best_value(self._tune.mode),
            )
        )


def _traceback(trial: Trial) -> str:
    """What a trial raised, its last failure at the end; Tune's own getter reads a copy that is made later."""
    path = Path(trial.error_file or "")
    return path.read_text() if path.is_file() else ""


def failure_reason(traceback_text: str) -> str:
    """The exception that a traceback ends with, as ``Name: message`` (its first line)."""
    raised = _RAISED.findall(traceback_text)
    if not raised:
        return traceback_text.strip()[-300:] or "the trial's process ended without a word"
    name, message = raised[-1]
    return f"{name}: {message}"
