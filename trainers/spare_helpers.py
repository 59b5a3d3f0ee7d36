"""Processes that stand by for the actors that Ray Train starts beside each group of workers."""

from __future__ import annotations

from typing import Any

from ray.train import UserCallback

from luthier.trainers.spares import keep_here

_HELPERS = 3
"""Barrier, watch for machines that are taken away, and data sets: each a process that would start beside the workers."""


class KeepHelpers(UserCallback):
    """Keeps processes for the helpers of the next group, from the first checkpoint of each group on."""

    def __init__(self) -> None:
        self._due = True

    def after_report(self, run_context: Any, metrics: Any, checkpoint: Any) -> None:
        """Called in the controller, whose environment the helpers share."""
        if self._due:
            self._due = False
            keep_here(_HELPERS)

    def after_exception(self, run_context: Any, worker_exceptions: Any) -> None:
        """The helpers of the next group take what is kept now."""
        self._due = True
