"""Which floating-point type to compute in where the config leaves the choice to the hardware.

Bfloat16 halves memory everywhere, but it is fast only where the processor multiplies in it. On a CPU without such
instructions torch 2.13 emulates it: a 1024 x 576 x 1536 product ran at 1.1 GFLOP/s on one core of a Zen 3 EPYC, against
81 in float32.
"""

from __future__ import annotations

from typing import Literal

Switch = bool | Literal["auto"]
Dtype = Literal["bfloat16", "float32"]

ENGINE_NOISE: dict[Dtype, float] = {"float32": 0.01, "bfloat16": 0.5}
"""Nats by which two sound engines may differ about how much likelier one token is than another.

Measured; docs/serving.md has the figures, and ``tests/integration/test_engine_noise.py`` repeats the measurement.
"""

SCORE_NOISE: dict[Dtype, float] = {"float32": 0.001, "bfloat16": 0.05}
"""By how much a class's probability may differ between two sound computations of one classifier.

Measured; docs/serving.md has the figures."""


def computes_in_bf16(wanted: Switch, device_type: str) -> bool:
    """Whether to compute in bfloat16 on this machine.

    Args:
        wanted: What the config says; ``auto`` asks the hardware.
        device_type: ``cpu`` or ``cuda``.
    """
    return _multiplies_bf16(device_type) if wanted == "auto" else wanted


def served_dtype(wanted: Dtype | Literal["auto"], device_type: str) -> Dtype:
    """The type that an engine on this machine computes in.

    Args:
        wanted: What the config says; ``auto`` asks the hardware.
        device_type: ``cpu`` or ``cuda``.
    """
    if wanted != "auto":
        return wanted
    return "bfloat16" if _multiplies_bf16(device_type) else "float32"


def engine_noise(*dtypes: Dtype) -> float:
    """The noise between engines that compute in these types, in nats: that of the coarsest."""
    return max(ENGINE_NOISE[dtype] for dtype in dtypes)


def score_noise(*dtypes: Dtype) -> float:
    """The same of a class's probability."""
    return max(SCORE_NOISE[dtype] for dtype in dtypes)


def _multiplies_bf16(device_type: str) -> bool:
    import torch

    if device_type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    features = torch.cpu.get_capabilities()
    return any(features.get(name, False) for name in ("amx_bf16", "avx512_bf16", "bf16"))
