"""The losses of several objectives over one model, inside the one module that a strategy wraps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from luthier.trainers.batches import Batch
from luthier.trainers.loss import SumLoss
from luthier.trainers.objectives.base import Objective


class Losses(SumLoss):
    """Called with a batch, gives the summed loss of the objective that is in use.

    Args:
        model: The model that all share.
        objective: In use unless another is asked for.
        others: Of tasks that the run was taught before.
    """

    def __init__(self, model: nn.Module, objective: Objective, *others: Objective) -> None:
        super().__init__(model)
        self._losses = {one: one.loss(model) for one in (objective, *others)}
        self._in_use = objective

    def forward(self, batch: Batch) -> torch.Tensor:
        """See :class:`SumLoss`."""
        loss: torch.Tensor = self._losses[self._in_use](batch)
        return loss

    @contextmanager
    def use(self, objective: Objective) -> Iterator[None]:
        """Take another objective's loss for the length of a block."""
        before, self._in_use = self._in_use, objective
        try:
            yield
        finally:
            self._in_use = before
