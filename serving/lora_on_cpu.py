"""A fault of vLLM 0.32 on CPUs, mended: requests to the base model were answered with an adapter's weights.

In a batch, vLLM marks tokens without an adapter by the index -1. Its torch kernels take that for an index into the stacked
adapters, which is the last slot: once that held an adapter, base requests that were computed beside any other request were
answered by it. A token without an adapter has no product with any.
"""

from __future__ import annotations

from typing import Any


def mend() -> None:
    """Let tokens without an adapter pass through the kernels unchanged; in the engine's core, before it starts."""
    from vllm.lora.ops.torch_ops import lora_ops
    from vllm.lora.punica_wrapper import punica_cpu

    original = lora_ops.bgmv_shrink

    def bgmv_shrink(inputs: Any, weights: Any, output: Any, indices: Any, scaling: float = 1.0) -> None:
        original(inputs, weights, output, indices, scaling)
        output[: len(indices)].masked_fill_((indices < 0).unsqueeze(1), 0.0)

    lora_ops.bgmv_shrink = bgmv_shrink  # what sgmv_shrink calls
    punica_cpu.bgmv_shrink = bgmv_shrink
