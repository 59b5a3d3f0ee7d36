"""The end of a sweep before its budget is used up."""

from __future__ import annotations

from typing import Any

from ray.tune import Stopper

from luthier.config.tune import Budget
from luthier.tuning.record import SweepLog, accelerator_hours
from luthier.tuning.recorder import SweepRecorder

_RESERVE = 1.5
"""Times the longest wait so far: the last one may be longer than every one before it."""


class BudgetStopper(Stopper):
    """Ends all trials while what is left still covers the wait for their next validation, at which they stop.

    Args:
        budget: The limits.
        log: Knows what earlier commands spent.
        recorder: Knows what the trials hold.

    Attributes:
        ended_by: What was used up; None as long as nothing is.
    """

    def __init__(self, budget: Budget, log: SweepLog, recorder: SweepRecorder) -> None:
        self._budget = budget
        self._log = log
        self._recorder = recorder
        self.ended_by: str | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its stopper for a restore of its own, which is not used."""
        return {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No single trial is ended."""
        return False

    def stop_all(self) -> bool:
        """Whether the sweep is to end."""
        self.ended_by = self.ended_by or self._used_up()
        return self.ended_by is not None

    def _used_up(self) -> str | None:
        wait_s = _RESERVE * self._recorder.longest_wait_s
        wall_s = self._log.record.past_wall_s + self._log.wall_s + wait_s
        limit = self._budget.wall_hours
        if limit is not None and wall_s >= limit * 3600:
            return f"budget.wall_hours={limit:g} is used up"
        limit = self._budget.accelerator_hours
        if limit is not None:
            at_once = {name: amount * wait_s for name, amount in self._recorder.held_at_once().items()}
            if accelerator_hours(self._recorder.held()) + accelerator_hours(at_once) >= limit:
                return f"budget.accelerator_hours={limit:g} is used up"
        return None
