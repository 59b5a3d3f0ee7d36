"""What is known of a sweep's trials: built from the events of its journal, alike in a live sweep and in one that goes on."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from luthier.sweep_schema import MetricPoint, Spent, TrialResult
from luthier.tuning.journal import Event, Journal
from luthier.tuning.trial import trial_name

Status = Literal["finished", "stopped", "failed"]


@dataclass
class TrialRecord:
    """One trial as known so far.

    Attributes:
        number: Its place in the order drawn, from 1.
        params: Dotted path to value; what it has now, where the scheduler changed it.
        repeats: Number of the trial whose values it repeats with another seed.
        history: Its validations.
        held: Resource name to seconds times amount.
        elapsed_s: Seconds that it ran.
        attempts: How often it was started by the sweep or again after a failure.
        status: None while it has not ended.
        reason: Why it was stopped or failed.
    """

    number: int
    params: dict[str, Any]
    repeats: int | None = None
    history: list[MetricPoint] = field(default_factory=list)
    held: dict[str, float] = field(default_factory=dict)
    elapsed_s: float = 0.0
    attempts: int = 1
    status: Status | None = None
    reason: str | None = None

    @property
    def trial_id(self) -> str:
        """Its name in the leaderboard, and its directory's."""
        return trial_name(self.number)

    def best(self, mode: str) -> MetricPoint | None:
        """The best validation; None where no value is finite."""
        sound = [point for point in self.history if math.isfinite(point.value)]
        pick = min if mode == "min" else max
        return pick(sound, key=lambda point: point.value, default=None)

    def result(self, mode: str) -> TrialResult:
        """As it ended; what has not ended failed."""
        best = self.best(mode)
        return TrialResult(
            trial_id=self.trial_id,
            params=self.params,
            metric=best.value if best else None,
            metrics=best.metrics if best else {},
            status=self.status or "failed",
            reason=self.reason if self.status else "the sweep ended before the trial did",
            wall_s=self.elapsed_s,
            history=tuple(point for point in self.history if math.isfinite(point.value)),
            held=self.held,
            attempts=self.attempts,
        )


class SweepRecord:
    """All trials of a sweep.

    Args:
        metric: The sweep's metric.
        events: What happened before; see :meth:`apply`.
    """

    def __init__(self, metric: str, events: Iterable[Event] = ()) -> None:
        self._metric = metric
        self.trials: dict[int, TrialRecord] = {}
        self._wall_s: list[float] = [0.0]
        self._bounds: dict[int, tuple[float, float]] = {}  # of each trial's values, repeats left out
        for event in events:
            self.apply(event)

    def apply(self, event: Event) -> None:
        """Take note of one event.

        ``opened`` a command began to work on the sweep; ``drawn`` a trial got its values; ``changed`` the scheduler gave it
        others; ``validated``, ``retried`` and ``ended`` speak for themselves. All but the first two tell what the trial has
        held and how long it has run; ``wall_s`` counts from the command's beginning.
        """
        kind = event["event"]
        self._wall_s[-1] = max(self._wall_s[-1], event.get("wall_s", 0.0))
        if kind == "opened":
            self._wall_s.append(0.0)
        elif kind == "drawn":
            number = event["trial"]
            self.trials[number] = TrialRecord(number, dict(event["params"]), event.get("repeats"))
        elif kind != "sweep":
            self._apply_to(self.trials[event["trial"]], kind, event)

    def _apply_to(self, trial: TrialRecord, kind: str, event: Event) -> None:
        trial.held = total((trial.held, event.get("held", {})))
        trial.elapsed_s += event.get("ran_s", 0.0)
        if kind == "changed":
            trial.params = dict(event["params"])
        elif kind == "validated":
            self._validated(trial, event)
        elif kind == "retried":
            trial.attempts += 1
            trial.reason = event["reason"]
        elif kind == "ended":
            trial.status, trial.reason = event["status"], event["reason"]

    def _validated(self, trial: TrialRecord, event: Event) -> None:
        metrics = event["metrics"]
        point = MetricPoint(
            step=event["step"],
            epoch=event["epoch"],
            value=metrics[self._metric],
            validation=event["validation"],
            elapsed_s=trial.elapsed_s,
            metrics={name: value for name, value in metrics.items() if math.isfinite(value)},
        )
        # One that went on from a checkpoint may validate again what it had validated before.
        trial.history = [old for old in trial.history if old.validation < point.validation] + [point]
        if trial.repeats is None:
            sound = [one.value for one in trial.history if math.isfinite(one.value)]
            self._bounds[trial.number] = (min(sound, default=math.inf), max(sound, default=-math.inf))

    @property
    def past_wall_s(self) -> float:
        """Seconds that earlier commands spent."""
        return sum(self._wall_s[:-1])

    @property
    def drawn(self) -> list[TrialRecord]:
        """Trials of the search, in order; repeats by seed left out."""
        return [trial for trial in self.trials.values() if trial.repeats is None]

    def repeats_of(self, number: int) -> list[TrialRecord]:
        """Repeats of a trial, by other seeds."""
        return [trial for trial in self.trials.values() if trial.repeats == number]

    def held(self) -> dict[str, float]:
        """Resource name to seconds times amount, of all trials."""
        return total(trial.held for trial in self.trials.values())

    def best_value(self, mode: str) -> float | None:
        """The best value so far."""
        lows, highs = zip(*self._bounds.values(), strict=True) if self._bounds else ((), ())
        best = min(lows, default=math.inf) if mode == "min" else max(highs, default=-math.inf)
        return best if math.isfinite(best) else None

    def spent(self, wall_s: float, ended_by: str | None) -> Spent:
        """What it cost.

        Args:
            wall_s: Seconds that this command spent.
            ended_by: What of the budget was used up.
        """
        held = self.held()
        by_status: dict[str, float] = {}
        for trial in self.trials.values():
            name = "seeds" if trial.repeats is not None else trial.status or "failed"
            by_status[name] = by_status.get(name, 0.0) + accelerator_hours(trial.held)
        return Spent(
            trials=len(self.trials),
            wall_s=self.past_wall_s + wall_s,
            cpu_hours=held.get("CPU", 0.0) / 3600,
            gpu_hours=held.get("GPU", 0.0) / 3600,
            by_status=by_status,
            ended_by=ended_by,
        )


def total(helds: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Sum by resource."""
    found: dict[str, float] = {}
    for held in helds:
        for name, amount in held.items():
            found[name] = found.get(name, 0.0) + amount
    return found


def accelerator_hours(held: Mapping[str, float]) -> float:
    """GPU-hours; CPU-hours where no GPU was held."""
    return (held.get("GPU") or held.get("CPU", 0.0)) / 3600


class SweepLog:
    """Journal and record of a sweep at work: what is noted is on disk, and known.

    Args:
        journal: With what earlier commands noted.
        metric: The sweep's metric.
    """

    def __init__(self, journal: Journal, metric: str) -> None:
        self._journal = journal
        self._begun = time.monotonic()
        self.record = SweepRecord(metric, journal.events)
        self.past = tuple(journal.events)
        self.note(event="opened")

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles whoever has this for a restore of its own, which is not used."""
        return {}

    @property
    def wall_s(self) -> float:
        """Seconds of this command."""
        return time.monotonic() - self._begun

    def note(self, **event: Any) -> None:
        """Put an event on disk, and take note of it; see :meth:`SweepRecord.apply`."""
        timed = {**event, "wall_s": round(self.wall_s, 3)}
        self._journal.append(timed)
        self.record.apply(timed)

    def draw(self, params: Mapping[str, Any], repeats: int | None = None) -> TrialRecord:
        """A new trial with these values."""
        number = len(self.record.trials) + 1
        self.note(event="drawn", trial=number, params=dict(params), repeats=repeats)
        return self.record.trials[number]
