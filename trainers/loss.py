"""Next-token loss, computed only where there is something to learn.

Shape legend: B rows, S sequence, K positions kept, N loss-bearing tokens, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from luthier.trainers.batches import Batch
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

    def forward(self, batch: Batch) -> torch.Tensor:
        """Sum over loss-bearing tokens of -log p(token | tokens before it), in nats; a float32 scalar."""
        logits_BKV, targets_BK = self._logits_and_targets(batch)
        has_loss_BK = targets_BK != IGNORE
        if not has_loss_BK.any():
            # A zero that still depends on the weights, so that backward and its collectives run on every worker.
            return logits_BKV.float().sum() * 0.0
        logits_NV, targets_N = logits_BKV[has_loss_BK].float(), targets_BK[has_loss_BK]
        return functional.cross_entropy(logits_NV, targets_N, reduction="sum")

    def row_losses(self, batch: Batch) -> list[tuple[float, int]]:
        """Per row: summed negative log-likelihood in nats, and the tokens it is over."""
        return row_losses(*self._logits_and_targets(batch))

    def _logits_and_targets(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (B, K, V) at the positions where some row has a target, and those targets (B, K).

        Rows are padded on the left, so answers line up and K is small beside S. The model's own head makes the logits,
        with any scaling or capping that it does.
        """
        targets_BS = functional.pad(batch.labels_BS[:, 1:], (0, 1), value=IGNORE)
        kept_K = (targets_BS != IGNORE).any(dim=0).nonzero().squeeze(1)
        if kept_K.numel() == 0:
            kept_K = torch.zeros(1, dtype=torch.long, device=targets_BS.device)
        output: Any = self.model(
            input_ids=batch.input_ids_BS,
            attention_mask=batch.attention_mask_BS,
            position_ids=batch.position_ids_BS,
            logits_to_keep=kept_K,
            use_cache=False,
        )
        return output.logits, targets_BS[:, kept_K]


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
