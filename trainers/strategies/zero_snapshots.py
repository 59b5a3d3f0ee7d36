"""DeepSpeed's state, copied when it would be written, and written behind the training loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine

from luthier.trainers.copies import copied


class Snapshots(TorchCheckpointEngine):
    """What DeepSpeed saves through: copies of its state, written when asked for."""

    def __init__(self) -> None:
        super().__init__()
        self._copies: list[tuple[Any, str]] = []

    def save(self, state_dict: Any, path: str) -> None:
        """Copy what would be written to a path."""
        self._copies.append((copied(state_dict), path))

    def take(self) -> Callable[[], object]:
        """What writes the copies made since the last call."""
        copies, self._copies = self._copies, []

        def write() -> None:
            for state, path in copies:
                torch.save(state, path)

        return write
