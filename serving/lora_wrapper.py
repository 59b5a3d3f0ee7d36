"""vLLM's products with adapters on CPUs, by :mod:`luthier.serving.lora_rows`; imported by the engine's core alone.

A token without an adapter passes unchanged. vLLM's own kernels take its index, -1, for the last slot, and answered base
requests with the adapter there.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

from luthier.serving.lora_rows import Rows, Stack, add_expanded, add_products


class RowsWrapper(PunicaWrapperCPU):  # type: ignore[misc]
    """What vLLM's layers call."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._tokens = Rows([])
        self._samples = Rows([])
        self._stacks: dict[int, Stack] = {}

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        """Take note of what the next batch's rows belong to."""
        super().update_metadata(*args, **kwargs)
        self._tokens = Rows(self.token_lora_indices.tolist())
        self._samples = Rows(self.sampler_indices.tolist())

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        lora_b_stacked: tuple[torch.Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        **_: Any,
    ) -> None:
        """Add to a linear layer's output; vLLM has multiplied the scale in, and passes 1."""
        if not self._tokens.present:
            return
        start = 0
        for first, second, size in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
            add_products(y[:, start : start + size], self._tokens, x, self._stack(first, second))
            start += size

    def add_lora_embedding(self, y: torch.Tensor, x: torch.Tensor, lora_b_stacked: torch.Tensor, **_: Any) -> None:
        """Add to an embedding's output."""
        if self._tokens.present:
            add_expanded(y.view(-1, y.shape[-1]), self._tokens, x, self._stack(None, lora_b_stacked))

    def add_lora_logits(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: torch.Tensor,
        lora_b_stacked: torch.Tensor,
        scale: float,
        **_: Any,
    ) -> None:
        """Add to the logits."""
        if self._samples.present:
            stack = self._stack(lora_a_stacked, lora_b_stacked)
            add_products(y.view(-1, y.shape[-1]), self._samples, x.view(-1, x.shape[-1]), stack)

    def _stack(self, first: torch.Tensor | None, second: torch.Tensor) -> Stack:
        if id(second) not in self._stacks:
            self._stacks[id(second)] = Stack(first, second)
        return self._stacks[id(second)]
