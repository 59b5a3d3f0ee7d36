"""Checkpoints that trials hand on to others: so many of the newest of each trial."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ray.tune import Callback

if TYPE_CHECKING:
    from ray.train import Checkpoint
    from ray.tune.experiment import Trial

_KEPT = 4
"""Of each trial: others may ask for one that is not the newest any more."""


class NewestCheckpoints(Callback):
    """Deletes older ones.

    Ray Tune's own limit counts a checkpoint twice that a trial reported and a population asked for, and fails to delete it
    a second time.
    """

    def __init__(self) -> None:
        self._paths: dict[str, list[str]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks for a restore of its own, which is not used."""
        return {}

    def on_checkpoint(
        self, iteration: int, trials: list[Trial], trial: Trial, checkpoint: Checkpoint, **info: Any
    ) -> None:
        """A checkpoint of a trial was stored."""
        paths = self._paths.setdefault(trial.trial_id, [])
        if checkpoint.path in paths:
            paths.remove(checkpoint.path)
        paths.append(checkpoint.path)
        while len(paths) > _KEPT:
            checkpoint.filesystem.delete_dir(paths.pop(0))
