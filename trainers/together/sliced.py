"""Linear layers that multiply all tokens by one frozen weight, and each run's tokens by that run's own adapter.

The tokens of a run lie one behind the other, so an adapter works on a slice of them. Products with few tokens or a low rank
cost about the same as larger ones, so the adapters of all runs are one pair whose ranks lie one behind the other, and zeros
keep a token from the ranks of other runs.

Shape legend: T tokens of all runs, I inputs, O outputs, R rank of one run, or the sum over all.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from luthier.trainers.fused import lora_linear


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


def weights_of(adapter: Adapter) -> list[nn.Parameter]:
    """A and B of each pair, layer by layer."""
    return [weight for pair in adapter.values() for weight in (pair.a_RI, pair.b_OR)]


@dataclass(frozen=True)
class Slice:
    """Tokens of one run.

    Attributes:
        tokens: Which; ``slice(None)`` is all.
        adapter: What is added for them.
    """

    tokens: slice
    adapter: Adapter


class Slices:
    """Which tokens get which adapter; all layers of a model read the same one. None get any at first."""

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
        slices: Tokens, none in two slices, and what is added for them. What is no number in one makes it so in all.

    Raises:
        RuntimeError: There are fewer tokens: the layer is one that sees only some, such as an expert.
    """
    if len(slices) == 1 and slices[0][0] == slice(None):
        ((_, pair),) = slices
        return lora_linear(x, weight_OI, bias_O, pair.a_RI, pair.b_OR, pair.scale)
    num_tokens = x.numel() // x.shape[-1]
    if any(tokens.stop > num_tokens for tokens, _ in slices):
        raise RuntimeError(f"a layer with adapters is given {num_tokens} tokens only; train these trials apart")
    blocks = tuple((tokens.start, tokens.stop, pair.b_OR.shape[1], pair.scale) for tokens, pair in slices)
    return lora_linear(
        x,
        weight_OI,
        bias_O,
        torch.cat([pair.a_RI for _, pair in slices]),
        torch.cat([pair.b_OR for _, pair in slices], dim=1),
        _scales(blocks, num_tokens, weight_OI.dtype, x.device),
    )


@lru_cache(maxsize=16)
def _scales(
    blocks: tuple[tuple[int, int, int, float], ...], num_tokens: int, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """T x R scales of adapters whose ranks lie one behind the other: 0 where a rank is not of the token's adapter.

    Args:
        blocks: First token, end, rank and scale of each adapter.
        num_tokens: T.
        dtype: In which they are computed.
        device: Where.
    """
    scales_TR = torch.zeros(num_tokens, sum(rank for _, _, rank, _ in blocks), dtype=dtype, device=device)
    at = 0
    for start, end, rank, scale in blocks:
        scales_TR[start:end, at : at + rank] = scale
        at += rank
    return scales_TR
