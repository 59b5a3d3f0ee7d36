"""Where Ray Tune gets its trials from: those that an earlier command left unfinished, then those that a searcher proposes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from ray.tune.search import Searcher

from luthier.tuning.record import SweepLog, TrialRecord
from luthier.tuning.trial import NUMBER, trial_name

log = logging.getLogger(__name__)


class TrialSource(Searcher):
    """Gives every trial its number, and has it noted before it starts.

    Args:
        log: The sweep's; what it tells of the past is told to the searcher, which thereby is where it was.
        metric: The sweep's metric.
        mode: ``min`` or ``max``.
        waiting: Trials that are to run first, with the values they have.
        searcher: Proposes the values of the rest; None: there are no more.
        num_trials: How many are drawn in all.
    """

    def __init__(
        self,
        log: SweepLog,
        metric: str,
        mode: str,
        waiting: Sequence[TrialRecord],
        searcher: Searcher | None = None,
        num_trials: int = 0,
    ) -> None:
        super().__init__(metric=metric, mode=mode)
        self._log = log
        self._waiting = list(waiting)
        self._searcher = searcher
        self._num_trials = num_trials
        self._records: dict[str, TrialRecord] = {}
        for event in log.past if searcher else ():
            self._tell_again(event)

    @property
    def num_left(self) -> int:
        """Trials still to come."""
        return len(self._waiting) + max(0, self._num_trials - len(self._log.record.drawn))

    def suggest(self, trial_id: str) -> Any:
        """Number and values of the next trial."""
        if self._waiting:
            record = self._waiting.pop(0)
        elif self._searcher is None or len(self._log.record.drawn) >= self._num_trials:
            return Searcher.FINISHED
        else:
            values = self._searcher.suggest(trial_name(len(self._log.record.trials) + 1))
            if not isinstance(values, dict):
                return values
            record = self._log.draw(values)
        self._records[trial_id] = record
        return {**record.params, NUMBER: record.number}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Handed on to the searcher."""
        if self._searcher and self.metric in result:
            self._searcher.on_trial_result(self._records[trial_id].trial_id, self._plain(result))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Handed on to the searcher."""
        if self._searcher:
            told = self._plain(result) if result and self.metric in result else None
            self._searcher.on_trial_complete(self._records[trial_id].trial_id, told, error)

    def _plain(self, result: dict[str, Any]) -> dict[str, Any]:
        """What a searcher is told of a validation; the same from Ray Tune and from the journal."""
        return {self.metric: result[self.metric], "training_iteration": result["validation"]}  # type: ignore[dict-item]

    def _tell_again(self, event: dict[str, Any]) -> None:
        assert self._searcher is not None
        number = event.get("trial", 0)
        if number not in self._log.record.trials or self._log.record.trials[number].repeats is not None:
            return
        record = self._log.record.trials[number]
        if event["event"] == "drawn":
            values = self._searcher.suggest(record.trial_id)
            if values != event["params"]:
                log.warning(
                    "%s: the searcher would propose other values now; the noted ones are kept.", record.trial_id
                )
        elif event["event"] == "validated":
            told = {**event["metrics"], "validation": event["validation"]}
            self._searcher.on_trial_result(record.trial_id, self._plain(told))
        elif event["event"] == "ended":
            last = record.history[-1] if record.history and event["status"] != "failed" else None
            told_last = {str(self.metric): last.value, "validation": last.validation} if last else None
            self._searcher.on_trial_complete(
                record.trial_id, self._plain(told_last) if told_last else None, event["status"] == "failed"
            )
