"""Supervised fine-tuning: learn the answers of conversations."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from torch import nn

from luthier.rows import Row
from luthier.trainers.batches import Batch, collate
from luthier.trainers.loss import SumLoss
from luthier.trainers.objectives.base import Tally
from luthier.trainers.tokens import ChatTokenizer, Encoded


class Sft:
    """Next-token loss on the answers, or on whole conversations.

    Args:
        base_model_dir: The pretrained model.
        max_length: Tokens kept of a row.
        assistant_only_loss: Mask all but the assistant's turns.
    """

    unit = "loss_tokens"
    classes: tuple[str, ...] = ()
    why_dropped = "no answer token within data.max_length"

    def __init__(self, base_model_dir: Path, max_length: int, assistant_only_loss: bool) -> None:
        self._base_model_dir = base_model_dir
        self._max_length = max_length
        self._assistant_only_loss = assistant_only_loss
        self.tally = Tally()

    @cached_property
    def tokenizer(self) -> ChatTokenizer:
        """See :class:`Objective`."""
        return ChatTokenizer(self._base_model_dir)

    def encode(self, row: Row) -> Sequence[Encoded]:
        """See :class:`Objective`."""
        return [self.tokenizer.encode(row, max_length=self._max_length, assistant_only_loss=self._assistant_only_loss)]

    def collate(self, rows: Sequence[Encoded]) -> Batch:
        """See :class:`Objective`."""
        return collate(rows, self.tokenizer.pad_id)

    def num_items(self, batch: Batch) -> int:
        """See :class:`Objective`."""
        return batch.num_loss_tokens

    def loss(self, model: nn.Module) -> SumLoss:
        """See :class:`Objective`."""
        return SumLoss(model)
