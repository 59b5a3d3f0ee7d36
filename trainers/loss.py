"""Next-token loss, computed only where there is something to learn.

Shape legend: B rows, S sequence, K positions kept, N loss-bearing tokens, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from luthier.trainers.batches import Batch
from luthier.trainers.flat_attention import FlatAttention
from luthier.trainers.head_loss import Head
from luthier.trainers.tokens import IGNORE


class SumLoss(nn.Module):
    """A causal language model that returns the summed negative log-likelihood of a batch.

    The sum, not the mean, leaves the division to the caller, who alone knows how many loss-bearing tokens the whole
    optimizer step has over all workers and accumulation steps.

    Args:
        model: A transformers (or peft) causal language model.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._head = Head(model)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Sum over loss-bearing tokens of -log p(token | tokens before it), in nats; a float32 scalar."""
        targets_BK, kept_K = targets_of(batch)
        has_loss_BK = targets_BK != IGNORE
        if not has_loss_BK.any():
            # A zero that still depends on the weights, so that backward and its collectives run on every worker.
            logits_BKV: torch.Tensor = self.model(**inputs_of(batch, kept_K)).logits
            return logits_BKV.float().sum() * 0.0
        if self._head.usable():
            return self._head.loss(inputs_of(batch, kept_K), has_loss_BK, targets_BK[has_loss_BK])
        logits_NV: torch.Tensor = self.model(**inputs_of(batch, kept_K)).logits[has_loss_BK]
        return functional.cross_entropy(logits_NV.float(), targets_BK[has_loss_BK], reduction="sum")

    def row_losses(self, batch: Batch) -> list[tuple[float, int]]:
        """Per row, in the order of ``batch.row_ids``: summed negative log-likelihood in nats, and tokens it is over."""
        targets_BK, kept_K = targets_of(batch)
        logits_BKV: torch.Tensor = self.model(**inputs_of(batch, kept_K)).logits
        if batch.layout is None:
            return row_losses(logits_BKV, targets_BK)
        # A target belongs to the row in whose span its token lies, one place after the position that predicts it.
        spans = batch.layout.row_spans
        parts = [(kept_K >= start - 1) & (kept_K < end - 1) for start, end in spans]
        return [row_losses(logits_BKV[:, part], targets_BK[:, part])[0] for part in parts]


def targets_of(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """The targets (B, K) at the positions where some row has one, and those positions (K).

    Padded rows are padded on the left, so answers line up and K is small beside S.
    """
    targets_BS = functional.pad(batch.labels_BS[:, 1:], (0, 1), value=IGNORE)
    kept_K = (targets_BS != IGNORE).any(dim=0).nonzero().squeeze(1)
    if kept_K.numel() == 0:
        kept_K = torch.zeros(1, dtype=torch.long, device=targets_BS.device)
    return targets_BS[:, kept_K], kept_K


def inputs_of(batch: Batch, kept_K: torch.Tensor) -> dict[str, Any]:
    """What the model is called with. Its own head makes logits at the kept positions, scaled or capped as it does."""
    flat = None if batch.layout is None else FlatAttention(batch.layout, batch.input_ids_BS.device)
    attention = {"attention_mask": batch.attention_mask_BS} if flat is None else {"flat": flat}
    return {
        "input_ids": batch.input_ids_BS,
        "position_ids": batch.position_ids_BS,
        "logits_to_keep": kept_K,
        "use_cache": False,
        **attention,
    }


def row_losses(logits_BKV: torch.Tensor, targets_BK: torch.Tensor) -> list[tuple[float, int]]:
    """Per row: summed negative log-likelihood in nats of its targets, and how many they are.

    Rows are taken one at a time, because the float32 copies of all rows' logits could be larger than the model.
    """
    return [
        (
            float(functional.cross_entropy(logits_KV.float(), targets_K, reduction="sum", ignore_index=IGNORE)),
            int((targets_K != IGNORE).sum()),
        )
        for logits_KV, targets_K in zip(logits_BKV, targets_BK, strict=True)
    ]
