"""Cross-entropy straight from hidden states, so that the logits of a whole micro-batch never exist.

A chunk of positions at a time is multiplied by the output head, its loss is taken, and its gradient is computed at once,
while the chunk's logits are still there; only gradients as large as the hidden states (and the head, where it is
trained) are kept for the backward pass. It is the plain loss in another order of work: nothing is recomputed.

Shape legend: N loss-bearing tokens, C of them in a chunk, H hidden size, V vocabulary, K positions kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from luthier.trainers.fused import computable
from luthier.trainers.verdicts import remembered

CHUNK_BYTES = {"cpu": 16 * 2**20, "cuda": 512 * 2**20}
"""Float32 logits of one chunk. On two cores 16 to 256 MiB took equal time; a GPU needs more to be busy."""


def linear_cross_entropy(
    hidden_NH: torch.Tensor,
    weight_VH: torch.Tensor,
    bias_V: torch.Tensor | None,
    targets_N: torch.Tensor,
    chunk_tokens: int | None = None,
) -> torch.Tensor:
    """Summed negative log-likelihood of targets under ``softmax(hidden @ weight.T + bias)``; a float32 scalar.

    Under autocast the products are in its type, as they are in the plain loss; the softmax is in float32.

    Args:
        hidden_NH: Hidden states.
        weight_VH: The output head.
        bias_V: Its bias, or None.
        targets_N: Token to predict at each position.
        chunk_tokens: C; None: as many as CHUNK_BYTES hold.
    """
    if chunk_tokens is None:
        chunk_tokens = _chunk_tokens(weight_VH)
    hidden_NH, weight_VH, bias_V = computable(hidden_NH, weight_VH, bias_V)  # type: ignore[assignment]
    loss: torch.Tensor = _LinearCrossEntropy.apply(hidden_NH, weight_VH, bias_V, targets_N, chunk_tokens)  # type: ignore[no-untyped-call]
    return loss


def token_cross_entropies(
    hidden_NH: torch.Tensor, weight_VH: torch.Tensor, bias_V: torch.Tensor | None, targets_N: torch.Tensor
) -> torch.Tensor:
    """What :func:`linear_cross_entropy` sums, token by token: N float32 values. The head is taken as frozen.

    The gradient of a token's hidden state is its own loss's alone, so it can be scaled afterwards: each value may be
    weighted as its user likes.
    """
    hidden_NH, weight_VH, bias_V = computable(hidden_NH, weight_VH, bias_V)  # type: ignore[assignment]
    size = _chunk_tokens(weight_VH)
    losses_N: torch.Tensor = _TokenCrossEntropies.apply(hidden_NH, weight_VH, bias_V, targets_N, size)  # type: ignore[no-untyped-call]
    return losses_N


def _chunk_tokens(weight_VH: torch.Tensor) -> int:
    limit = CHUNK_BYTES.get(weight_VH.device.type, CHUNK_BYTES["cuda"])
    return max(1, limit // (4 * weight_VH.shape[0]))


def _chunk_losses(
    hidden_CH: torch.Tensor, weight_VH: torch.Tensor, bias_V: torch.Tensor | None, targets_C: torch.Tensor, slope: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Negative log-likelihoods (C,), and their gradients by the logits (C, V) where ``slope`` asks for these."""
    log_probs_CV = functional.linear(hidden_CH, weight_VH, bias_V).float().log_softmax(dim=-1)
    targets_C1 = targets_C[:, None]
    losses_C = -log_probs_CV.gather(1, targets_C1).squeeze(1)
    if not slope:
        return losses_C, None
    # d loss / d logits = probabilities - one-hot(target)
    d_logits_CV = log_probs_CV.exp_()
    return losses_C, d_logits_CV.scatter_add_(1, targets_C1, d_logits_CV.new_full(targets_C1.shape, -1.0))


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_NH: torch.Tensor,
        weight_VH: torch.Tensor,
        bias_V: torch.Tensor | None,
        targets_N: torch.Tensor,
        chunk_tokens: int,
    ) -> torch.Tensor:
        wanted = ctx.needs_input_grad[:3]
        d_hidden_NH = torch.empty_like(hidden_NH) if wanted[0] else None
        d_weight_VH = torch.zeros_like(weight_VH, dtype=torch.float32) if wanted[1] else None
        d_bias_V = torch.zeros_like(bias_V, dtype=torch.float32) if wanted[2] and bias_V is not None else None
        loss = torch.zeros((), dtype=torch.float32, device=hidden_NH.device)
        with torch.autocast(hidden_NH.device.type, enabled=False):
            for start in range(0, len(targets_N), chunk_tokens):
                chunk = slice(start, start + chunk_tokens)
                hidden_CH = hidden_NH[chunk]
                losses_C, d_logits_CV = _chunk_losses(hidden_CH, weight_VH, bias_V, targets_N[chunk], slope=any(wanted))
                loss += losses_C.sum()
                if d_logits_CV is None:
                    continue
                if d_bias_V is not None:
                    d_bias_V += d_logits_CV.sum(dim=0)
                d_logits_CV = d_logits_CV.to(hidden_NH.dtype)
                if d_hidden_NH is not None:
                    torch.mm(d_logits_CV, weight_VH, out=d_hidden_NH[chunk])
                if d_weight_VH is not None:
                    _add_product(d_weight_VH, d_logits_CV.t(), hidden_CH)
        ctx.save_for_backward(d_hidden_NH, d_weight_VH, d_bias_V)
        ctx.types = (hidden_NH.dtype, weight_VH.dtype, None if bias_V is None else bias_V.dtype)
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, d_loss: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        found = (
            None if gradient is None else (gradient * d_loss).to(dtype)
            for gradient, dtype in zip(ctx.saved_tensors, ctx.types, strict=True)
        )
        return (*found, None, None)


class _TokenCrossEntropies(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_NH: torch.Tensor,
        weight_VH: torch.Tensor,
        bias_V: torch.Tensor | None,
        targets_N: torch.Tensor,
        chunk_tokens: int,
    ) -> torch.Tensor:
        d_hidden_NH = torch.empty_like(hidden_NH) if ctx.needs_input_grad[0] else None
        losses_N = torch.empty(len(targets_N), dtype=torch.float32, device=hidden_NH.device)
        with torch.autocast(hidden_NH.device.type, enabled=False):
            for start in range(0, len(targets_N), chunk_tokens):
                chunk = slice(start, start + chunk_tokens)
                losses_N[chunk], d_logits_CV = _chunk_losses(
                    hidden_NH[chunk], weight_VH, bias_V, targets_N[chunk], slope=d_hidden_NH is not None
                )
                if d_hidden_NH is not None and d_logits_CV is not None:
                    torch.mm(d_logits_CV.to(hidden_NH.dtype), weight_VH, out=d_hidden_NH[chunk])
        ctx.save_for_backward(d_hidden_NH)
        return losses_N

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, d_losses_N: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (d_hidden_NH,) = ctx.saved_tensors
        return (d_hidden_NH * d_losses_N[:, None]).to(d_hidden_NH.dtype), None, None, None, None


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """total += left @ right, in float32 whatever type the factors have."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


class Head:
    """The output head of a causal language model, where its logits are a plain product that can be done in chunks.

    Args:
        model: A transformers (or peft) causal language model.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._causal: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._fit: bool | None = None

    def usable(self) -> bool:
        """Whether hidden states and the head's weight give the model's own logits; tried once, at the first call.

        No: an adapter on the head or a trained copy of it (peft), weights that are divided among workers, a cap on the
        logits (Gemma 2), or anything else that the trial finds to differ. The model then makes all N logits itself.
        """
        if self._fit is None:
            self._fit = self._plain() and remembered("head apart", self._model, self._agrees)
        return self._fit

    def loss(self, inputs: dict[str, Any], has_loss_K: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
        """Summed loss of the model on ``inputs`` at the kept positions that ``has_loss_K`` names (B, K)."""
        linear = self._causal.get_output_embeddings()
        hidden_NH = self._hidden(inputs)[has_loss_K]
        return linear_cross_entropy(hidden_NH, linear.weight, linear.bias, targets_N)

    def token_losses(self, inputs: dict[str, Any], has_loss_K: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
        """The same for each of N tokens; the head is frozen."""
        linear = self._causal.get_output_embeddings()
        return token_cross_entropies(self._hidden(inputs)[has_loss_K], linear.weight, linear.bias, targets_N)

    def _hidden(self, inputs: dict[str, Any], factor: float = 1.0) -> torch.Tensor:
        """What the model hands to its head, with all that it would do to the logits (Granite and Cohere scale them)."""
        with _passing_through(self._causal.get_output_embeddings(), factor):
            hidden_BKH: torch.Tensor = self._model(**inputs).logits
        return hidden_BKH

    def _plain(self) -> bool:
        linear = self._causal.get_output_embeddings()
        if type(linear) is not nn.Linear or type(linear.weight) is not nn.Parameter:
            return False  # an adapter or a copy (peft), a quantised layer, or a DTensor
        return not hasattr(linear.weight, "ds_id")  # ZeRO-3 gathers a weight for its own layer's forward pass only

    @torch.no_grad()
    def _agrees(self) -> bool:
        """Compare logits on a few tokens, and hidden states with a thousandfold of them: a cap is not linear."""
        weight = self._causal.get_output_embeddings().weight
        ids = torch.arange(8, device=weight.device)[None] % weight.shape[0]
        inputs = {"input_ids": ids, "use_cache": False, "logits_to_keep": torch.arange(8, device=weight.device)}
        linear = self._causal.get_output_embeddings()
        was_training = self._model.training
        self._model.eval()
        try:
            logits, hidden, larger = self._model(**inputs).logits, self._hidden(inputs), self._hidden(inputs, 1000.0)
        finally:
            self._model.train(was_training)
        if hidden.shape[-1] != weight.shape[1]:
            return False
        ours = linear(hidden)
        noise = 0.02 if logits.dtype != torch.float32 or ours.dtype != torch.float32 else 1e-4
        return _close(ours, logits, noise) and _close(larger / 1000.0, hidden, noise)


def _close(left: torch.Tensor, right: torch.Tensor, noise: float) -> bool:
    apart = (left.float() - right.float()).abs()
    return bool((apart <= noise * right.float().abs().max()).all())  # not so where a number is none


@contextmanager
def _passing_through(head: nn.Linear, factor: float) -> Iterator[None]:
    """Let a layer return its input, times ``factor``; no logits are made."""
    head.forward = lambda hidden: hidden if factor == 1.0 else hidden * factor  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        del head.forward
