"""Sequence classification: a new head on a pretrained encoder or decoder tells labels apart.

Shape legend: B rows, S tokens of the longest, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from luthier.errors import ConfigError, DataError
from luthier.rows import Row
from luthier.trainers.batches import Batch
from luthier.trainers.loss import SumLoss
from luthier.trainers.objectives.base import Tally
from luthier.trainers.tokens import IGNORE, Encoded, TextTokenizer

_NO_LIMIT = 10**6
"""Tokenizers without a longest sequence name a number far above this."""


class Classification:
    """Cross-entropy over the classes.

    An encoded row's last label is its class's index; the others are IGNORE. Rows are padded on the right, because
    encoders pool their first token and take positions as they come; decoders of transformers pool the last token that
    is no padding on either side.

    Args:
        base_model_dir: The pretrained model.
        max_length: Tokens kept of a row.
        classes: The labels, in the order of their indices.
    """

    unit = "rows"
    why_dropped = "the row has no class"

    def __init__(self, base_model_dir: Path, max_length: int, classes: tuple[str, ...]) -> None:
        self._base_model_dir = base_model_dir
        self._max_length = max_length
        self.classes = classes
        self.tally = Tally("accuracy")

    @cached_property
    def tokenizer(self) -> TextTokenizer:
        """See :class:`Objective`.

        Raises:
            ConfigError: The model has fewer positions than ``data.max_length``.
        """
        found = TextTokenizer(self._base_model_dir)
        limit = int(found.hf.model_max_length)
        if limit < min(self._max_length, _NO_LIMIT):
            raise ConfigError(
                f"data.max_length={self._max_length} is above the {limit} tokens that the model reads; lower it."
            )
        return found

    def encode(self, row: Row) -> Sequence[Encoded]:
        """See :class:`Objective`. Special tokens stay whole when a text is cut."""
        if row.text is None or row.label is None:
            raise DataError(f"{row.row_id}: has no text and label; train.objective: classification needs both.")
        if row.label not in self.classes:
            known = ", ".join(self.classes)
            raise DataError(
                f"{row.row_id}: label {row.label!r} is none of the training rows' ({known}); correct the row, or list "
                "it in datasets[].labels."
            )
        ids, num_cut = self.tokenizer.cut_ids(row.text, self._max_length)
        labels = (*[IGNORE] * max(len(ids) - 1, 1), self.classes.index(row.label))
        return [Encoded(row.row_id, ids, labels, num_cut)]

    def collate(self, rows: Sequence[Encoded]) -> Batch:
        """See :class:`Objective`. ``labels_BS`` has one column, the class of each row."""
        longest = max((len(row.input_ids) for row in rows), default=1)
        shape = (max(len(rows), 1), longest)
        input_ids_BS = torch.full(shape, self.tokenizer.pad_id, dtype=torch.long)
        attention_mask_BS = torch.zeros(shape, dtype=torch.long)
        for index, row in enumerate(rows):
            input_ids_BS[index, : len(row.input_ids)] = torch.tensor(row.input_ids)
            attention_mask_BS[index, : len(row.input_ids)] = 1
        if not rows:
            attention_mask_BS[:] = 1
        position_ids_BS = torch.arange(longest).expand(shape)
        labels_B1 = torch.tensor([[row.labels[-1]] for row in rows] or [[IGNORE]])
        ids = tuple(row.row_id for row in rows)
        return Batch(ids, input_ids_BS, attention_mask_BS, position_ids_BS, labels_B1, len(rows))

    def num_items(self, batch: Batch) -> int:
        """See :class:`Objective`."""
        return len(batch.row_ids)

    def loss(self, model: nn.Module) -> SumLoss:
        """See :class:`Objective`."""
        return ClassLoss(model, self.tally)


class ClassLoss(SumLoss):
    """A sequence classifier that returns the summed cross-entropy of a batch.

    Args:
        model: A transformers (or peft) model for sequence classification.
        tally: Takes the number of rows that were put in their class.
    """

    def __init__(self, model: nn.Module, tally: Tally) -> None:
        super().__init__(model)
        self._tally = tally

    def forward(self, batch: Batch) -> torch.Tensor:
        """Sum over rows of -log p(class), in nats; a float32 scalar."""
        logits_BC = self.class_logits(batch)
        if not batch.row_ids:
            # A zero that still depends on the weights, so that backward and its collectives run on every worker.
            return logits_BC.sum() * 0.0
        classes_B = batch.labels_BS[:, 0]
        self._tally.add({"accuracy": (logits_BC.argmax(dim=1) == classes_B).sum()})
        return functional.cross_entropy(logits_BC, classes_B, reduction="sum")

    def class_logits(self, batch: Batch) -> torch.Tensor:
        """Logits (B, C) in float32."""
        output: Any = self.model(input_ids=batch.input_ids_BS, attention_mask=batch.attention_mask_BS)
        logits_BC: torch.Tensor = output.logits.float()
        return logits_BC
