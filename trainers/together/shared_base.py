"""The one frozen base, and the gradients of several runs from one pass over it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from luthier.config.run import RunConfig
from luthier.errors import ConfigError
from luthier.precision import computes_in_bf16
from luthier.trainers.batches import Batch
from luthier.trainers.flat import Layout
from luthier.trainers.flat_attention import why_not_flat
from luthier.trainers.head_loss import Head
from luthier.trainers.loss import inputs_of, targets_of
from luthier.trainers.model import load_base
from luthier.trainers.speed import speed_up
from luthier.trainers.together.adapter import NewAdapter, draw_adapter
from luthier.trainers.together.sliced import Adapter, Slice, Slices, slice_layers, weights_of
from luthier.trainers.tokens import IGNORE, ChatTokenizer


@dataclass(frozen=True)
class Share:
    """What one run contributes to a round.

    Attributes:
        adapter: Its adapter.
        batch: Its micro-batch, flat.
        num_loss_tokens: Loss-bearing tokens of its whole optimizer step, which its loss is divided by.
    """

    adapter: Adapter
    batch: Batch
    num_loss_tokens: int


class SharedBase:
    """A causal language model whose linear layers serve several adapters at once.

    Args:
        base_model_dir: The pretrained model.
        cfg: Its ``model``, ``train.bf16``, ``train.fused_layers`` and resources are used.

    Attributes:
        model: The base, in its compute type.
        device: Where it is.
        bf16: Whether it computes in bfloat16.
        collate: Lays the rows of one run out flat.

    Raises:
        ConfigError: The model's rows can't lie flat, or it has dropout.
    """

    def __init__(self, base_model_dir: Path, cfg: RunConfig) -> None:
        self.device = torch.device("cuda" if cfg.train.use_gpu else "cpu")
        self.bf16 = computes_in_bf16(cfg.train.bf16, self.device.type)
        self.model: Any = load_base(base_model_dir, cfg.model, torch.bfloat16 if self.bf16 else torch.float32)
        self.model.config.use_cache = False
        self.model.requires_grad_(False)
        if any(isinstance(module, nn.Dropout) and module.p > 0 for module in self.model.modules()):
            raise ConfigError(
                "this model has dropout, of which trials on one base would draw together; train them apart."
            )
        collate = speed_up(self.model, cfg.train, ChatTokenizer(base_model_dir).pad_id)
        if collate is None:
            reason = why_not_flat(self.model)
            raise ConfigError(f"trials can't share this model, because {reason}; train them apart.")
        self.collate = collate
        self.model.to(self.device).train()
        self.autocast = torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16)
        self._slices = Slices()
        self._head = Head(self.model)

    def new_adapter(self, cfg: RunConfig) -> NewAdapter:
        """A run's adapter; the layers that it needs are ready for it."""
        adapter = draw_adapter(self.model, cfg.train, cfg.seed)
        slice_layers(self.model, list(adapter.pairs), self._slices)
        return adapter

    def learn(self, shares: Sequence[Share]) -> list[torch.Tensor]:
        """Add each adapter's gradient of its own mean loss, all in one pass, or in one for each where that makes no numbers.

        All adapters' products are one product, in which zeros keep a token from other adapters; and zero times infinity
        is no number.

        Returns:
            The summed loss of each share in nats, detached.
        """
        losses, gradients = self._pass(shares)
        if len(shares) > 1 and not bool(nn.utils.get_total_norm(gradients.values()).isfinite()):
            return [loss for share in shares for loss in self.learn([share])]
        for weight, gradient in gradients.items():
            weight.grad = gradient.contiguous() if weight.grad is None else weight.grad.add_(gradient)
        return losses

    def _pass(self, shares: Sequence[Share]) -> tuple[list[torch.Tensor], dict[nn.Parameter, torch.Tensor]]:
        """One forward and one backward pass: the summed loss of each share, and the gradients of all.

        A loss depends on no other adapter than its own, so the gradients of a sum are those that each has alone.
        """
        batch = joined([share.batch for share in shares])
        targets_1K, kept_K = targets_of(batch)
        has_loss_1K = targets_1K != IGNORE
        targets_N = targets_1K[has_loss_1K]
        inputs = inputs_of(batch, kept_K)
        usable = self._head.usable()
        with self.autocast, self._slices.set(_side_by_side(shares)):
            if usable:
                losses_N = self._head.token_losses(inputs, has_loss_1K, targets_N)
            else:
                logits_NV = self.model(**inputs).logits[has_loss_1K]
                losses_N = functional.cross_entropy(logits_NV.float(), targets_N, reduction="none")
        losses = [own.sum() for own in torch.split(losses_N, [share.batch.num_loss_tokens for share in shares])]
        means = [loss / share.num_loss_tokens for loss, share in zip(losses, shares, strict=True)]
        weights = [weight for share in shares for weight in weights_of(share.adapter)]
        found = torch.autograd.grad(torch.stack(means).sum(), weights, allow_unused=True)
        gradients = {weight: one for weight, one in zip(weights, found, strict=True) if one is not None}
        return [loss.detach() for loss in losses], gradients

    def under(self, adapter: Adapter, loss: nn.Module) -> nn.Module:
        """A loss of the base that uses one adapter for all tokens."""
        return _Under(loss, self._slices, adapter, self.autocast)


class _Under(nn.Module):
    def __init__(self, loss: nn.Module, slices: Slices, adapter: Adapter, autocast: torch.autocast) -> None:
        super().__init__()
        self._loss = loss
        self._slices = slices
        self._all = Slice(slice(None), adapter)
        self._autocast = autocast

    def forward(self, batch: Batch) -> torch.Tensor:
        with self._autocast, self._slices.set([self._all]):
            loss: torch.Tensor = self._loss(batch)
        return loss


def joined(batches: Sequence[Batch]) -> Batch:
    """Flat micro-batches one behind the other. The first token of each carries no loss, so none predicts another's."""
    layouts = [batch.layout for batch in batches if batch.layout is not None]
    return Batch(
        tuple(row for batch in batches for row in batch.row_ids),
        torch.cat([batch.input_ids_BS for batch in batches], dim=1),
        torch.cat([batch.attention_mask_BS for batch in batches], dim=1),
        torch.cat([batch.position_ids_BS for batch in batches], dim=1),
        torch.cat([batch.labels_BS for batch in batches], dim=1),
        sum(batch.num_loss_tokens for batch in batches),
        Layout(tuple(group for layout in layouts for group in layout.groups)),
    )


def _side_by_side(shares: Sequence[Share]) -> list[Slice]:
    """The tokens of each share, in their order."""
    slices, at = [], 0
    for share in shares:
        end = at + share.batch.input_ids_BS.shape[1]
        slices.append(Slice(slice(at, end), share.adapter))
        at = end
    return slices
