"""What data preparation and the loop ask of an objective, and how one is chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from luthier.config.data import DataConfig
from luthier.config.train import TrainConfig
from luthier.rows import Row
from luthier.trainers.batches import Batch
from luthier.trainers.loss import SumLoss
from luthier.trainers.tokens import Encoded


class Tokenizer(Protocol):
    """The part of a tokenizer that training and artifacts need."""

    hf: Any
    pad_id: int


class Tally:
    """Sums of what a loss measures besides itself, kept until they are taken.

    Args:
        names: What is measured, in a fixed order, so that workers can add up their sums.
    """

    def __init__(self, *names: str) -> None:
        self.names = names
        self._sums = [0.0] * len(names)

    def add(self, values: Mapping[str, torch.Tensor]) -> None:
        """Add one batch's sums: a scalar for every name."""
        for place, name in enumerate(self.names):
            self._sums[place] += float(values[name].detach())

    def take(self) -> list[float]:
        """The sums since the last call, in the order of the names."""
        taken, self._sums = self._sums, [0.0] * len(self.names)
        return taken


class Objective(Protocol):
    """From a row to its tokens, from rows to a batch, from a batch to its summed loss."""

    unit: str
    """What the loss is averaged over, as the metrics stream calls it: ``loss_tokens``, ``rows`` or ``pairs``."""

    classes: tuple[str, ...]
    """Labels that a classification head tells apart, by index; empty where there is no head."""

    why_dropped: str
    """Why :meth:`encode` leaves a row without a token to learn, for the account."""

    tally: Tally
    """What the loss measures besides; the metrics stream gets the mean over the same units."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The base model's tokenizer, as the artifact keeps it."""
        ...

    def encode(self, row: Row) -> Sequence[Encoded]:
        """The sequences that a row makes; one, unless the objective divides rows.

        Raises:
            DataError: The row can't be used.
        """
        ...

    def collate(self, rows: Sequence[Encoded]) -> Batch:
        """Pad rows to a micro-batch. No rows at all give one that can be run and has no loss."""
        ...

    def num_items(self, batch: Batch) -> int:
        """What the batch's loss is to be divided by, in :attr:`unit`."""
        ...

    def loss(self, model: nn.Module) -> SumLoss:
        """The module that strategies train: called with a batch, returns its summed loss as a float32 scalar."""
        ...


def build_objective(
    train: TrainConfig, data: DataConfig, base_model_dir: Path, classes: tuple[str, ...] = ()
) -> Objective:
    """The objective that the config names. Nothing is loaded yet, so it can be sent to another process.

    Args:
        train: Names the objective and holds its settings.
        data: How rows become tokens.
        base_model_dir: The pretrained model, whose tokenizer is used.
        classes: The labels of a classifier.
    """
    from luthier.trainers.objectives.classification import Classification
    from luthier.trainers.objectives.dpo import Dpo
    from luthier.trainers.objectives.pretraining import Pretraining
    from luthier.trainers.objectives.sft import Sft

    if train.objective == "classification":
        return Classification(base_model_dir, data.max_length, classes)
    if train.objective == "pretraining":
        return Pretraining(base_model_dir, data.max_length)
    if train.objective == "dpo":
        return Dpo(base_model_dir, data.max_length, train.dpo)
    return Sft(base_model_dir, data.max_length, data.assistant_only_loss)
