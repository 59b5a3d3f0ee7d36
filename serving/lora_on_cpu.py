"""Adapters on a CPU: vLLM's engine takes our products with them in place of its own."""

from __future__ import annotations


def use_row_products() -> None:
    """Let vLLM multiply by :mod:`luthier.serving.lora_wrapper`; in the engine's core, before it starts."""
    from vllm.platforms.cpu import CpuPlatform

    CpuPlatform.get_punica_wrapper = classmethod(lambda cls: "luthier.serving.lora_wrapper.RowsWrapper")
