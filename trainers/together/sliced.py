"""Linear layers that multiply all tokens by one frozen weight, and each run's tokens by that run's own adapter.

The tokens of a run lie one behind the other, so an adapter works on a slice of them. The products are those of
:mod:`luthier.trainers.fused`, and no intermediate of the output's size is made.

Shape legend: T tokens of all runs, M tokens of one run, I inputs, O outputs, R rank.
"""

from __future__ import annotations

import threading
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from luthier.trainers.fused import computable


@dataclass(frozen=True)
class Pair:
    """One layer's adapter: it adds ``scale * (x A^T) B^T``.

    Attributes:
        a_RI: Down to the rank.
        b_OR: Up from it.
        scale: As peft computes it from alpha and rank.
    """

    a_RI: nn.Parameter
    b_OR: nn.Parameter
    scale: float


Adapter = Mapping[str, Pair]
"""A run's pairs by the name of the layer that they belong to."""


@dataclass(frozen=True)
class Slice:
    """Tokens of one run.

    Attributes:
        tokens: Which; ``slice(None)`` is all.
        adapter: What is added for them.
    """

    tokens: slice
    adapter: Adapter


class Slices(threading.local):
    """Which tokens get which adapter; all layers of a model read the same one. None get any at first.

    Each thread has its own, so that several can run the model at a time.
    """

    def __init__(self) -> None:
        self._slices: tuple[Slice, ...] = ()

    @contextmanager
    def set(self, slices: Sequence[Slice]) -> Iterator[None]:
        """Use adapters for the length of a block, which holds a forward pass; nothing of theirs stays behind it."""
        before, self._slices = self._slices, tuple(slices)
        try:
            yield
        finally:
            self._slices = before

    def of(self, layer: str) -> list[tuple[slice, Pair]]:
        """The slices that have a pair at a layer."""
        return [(one.tokens, one.adapter[layer]) for one in self._slices if layer in one.adapter]


def slice_layers(base: nn.Module, names: Sequence[str], slices: Slices) -> None:
    """Let linear layers with a frozen weight add what ``slices`` tells; doing it twice changes nothing."""
    for name in names:
        layer = base.get_submodule(name)
        layer.forward = types.MethodType(_forward(name, slices), layer)


def _forward(name: str, slices: Slices) -> Any:
    def forward(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        mine = slices.of(name)
        if not mine:
            return functional.linear(x, layer.weight, layer.bias)
        return sliced_linear(x, layer.weight, layer.bias, mine)

    return forward


def sliced_linear(
    x: torch.Tensor, weight_OI: torch.Tensor, bias_O: torch.Tensor | None, slices: Sequence[tuple[slice, Pair]]
) -> torch.Tensor:
    """``x W^T + b``, and for the tokens of each slice ``+ s (x A^T) B^T`` (Hu et al. 2021) with the slice's own A and B.

    Args:
        x: Inputs; all but the last dimension are tokens.
        weight_OI: Frozen.
        bias_O: Frozen, or None.
        slices: Tokens, none in two slices, and what is added for them.
    """
    pairs = [weight for _, pair in slices for weight in (pair.a_RI, pair.b_OR)]
    x, weight_OI, bias_O, *pairs = computable(x, weight_OI, bias_O, *pairs)  # type: ignore[assignment]
    told = tuple((tokens, pair.scale) for tokens, pair in slices)
    out: torch.Tensor = _SlicedLinear.apply(x, weight_OI, bias_O, told, *pairs)  # type: ignore[no-untyped-call]
    return out


class _SlicedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight_OI: torch.Tensor,
        bias_O: torch.Tensor | None,
        told: tuple[tuple[slice, float], ...],
        *pairs: torch.Tensor,
    ) -> torch.Tensor:
        x_TI = x.reshape(-1, x.shape[-1])
        downs = []
        with torch.autocast(x.device.type, enabled=False):
            out_TO = functional.linear(x_TI, weight_OI, bias_O)
            for (tokens, scale), a_RI, b_OR in zip(told, pairs[::2], pairs[1::2], strict=True):
                down_MR = x_TI[tokens] @ a_RI.t()
                out_TO[tokens].addmm_(down_MR, b_OR.t(), alpha=scale)
                downs.append(down_MR)
        ctx.save_for_backward(x_TI, weight_OI, *pairs, *downs)
        ctx.told, ctx.shape = told, x.shape
        return out_TO.view(*x.shape[:-1], -1)

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, d_out: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x_TI, weight_OI, *rest = ctx.saved_tensors
        number = len(ctx.told)
        pairs, downs = rest[: 2 * number], rest[2 * number :]
        d_out_TO = d_out.reshape(-1, d_out.shape[-1])
        d_x_TI = d_out_TO @ weight_OI if ctx.needs_input_grad[0] else None
        d_pairs: list[torch.Tensor] = []
        for (tokens, scale), a_RI, b_OR, down_MR in zip(ctx.told, pairs[::2], pairs[1::2], downs, strict=True):
            d_out_MO = d_out_TO[tokens]
            d_down_MR = (d_out_MO @ b_OR).mul_(scale)
            d_pairs += (d_down_MR.t() @ x_TI[tokens], (d_out_MO.t() @ down_MR).mul_(scale))
            if d_x_TI is not None:
                d_x_TI[tokens].addmm_(d_down_MR, a_RI)
        return None if d_x_TI is None else d_x_TI.view(ctx.shape), None, None, None, *d_pairs
