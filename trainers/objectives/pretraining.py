"""Continued pretraining: learn plain text, every token of it (Gururangan et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from torch import nn

from luthier.errors import DataError
from luthier.rows import Row
from luthier.trainers.batches import Batch, collate
from luthier.trainers.loss import SumLoss
from luthier.trainers.objectives.base import Tally
from luthier.trainers.tokens import IGNORE, Encoded, TextTokenizer


class Pretraining:
    """Next-token loss on documents without any chat template, each closed by the end-of-sequence token.

    A document longer than ``max_length`` makes several sequences, each of which begins with the last token of the one
    before it. So every token but the document's first is predicted once, and none is cut off.

    Args:
        base_model_dir: The pretrained model.
        max_length: Tokens of a sequence.
    """

    unit = "loss_tokens"
    classes: tuple[str, ...] = ()
    why_dropped = "the text is one token, and the first is never predicted"

    def __init__(self, base_model_dir: Path, max_length: int) -> None:
        self._base_model_dir = base_model_dir
        self._max_length = max_length
        self.tally = Tally()

    @cached_property
    def tokenizer(self) -> TextTokenizer:
        """See :class:`Objective`."""
        return TextTokenizer(self._base_model_dir, need_eos=True)

    def encode(self, row: Row) -> Sequence[Encoded]:
        """See :class:`Objective`. The pieces of a divided document are named ``<row id>#1`` and so on."""
        if row.text is None:
            raise DataError(f"{row.row_id}: has no text; train.objective: pretraining reads plain text.")
        ids = self.tokenizer.text_ids(row.text)
        if ids[-1:] != (self.tokenizer.eos_id,):
            ids = (*ids, self.tokenizer.eos_id)
        stride = self._max_length - 1
        pieces = [ids[start : start + self._max_length] for start in range(0, max(len(ids) - 1, 1), stride)]
        names = [row.row_id] if len(pieces) == 1 else [f"{row.row_id}#{number + 1}" for number in range(len(pieces))]
        return [Encoded(name, piece, (IGNORE, *piece[1:])) for name, piece in zip(names, pieces, strict=True)]

    def collate(self, rows: Sequence[Encoded]) -> Batch:
        """See :class:`Objective`."""
        return collate(rows, self.tokenizer.pad_id)

    def num_items(self, batch: Batch) -> int:
        """See :class:`Objective`."""
        return batch.num_loss_tokens

    def loss(self, model: nn.Module) -> SumLoss:
        """See :class:`Objective`."""
        return SumLoss(model)
