"""Adapters that begin with a part of the base (PiSSA, OLoRA), told as adapters of the base as it was.

Such a start takes s B0 A0 out of each weight W and trains W - s B0 A0 + s B A, s being the adapter's scale. On the
unchanged W that is the adapter s [B, -B0] [A; A0] of twice the rank, which any reader of adapters can load (Meng et al.
2024, "PiSSA", appendix on conversion).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

_START = "luthier_adapter_start"
_PARTS = {"lora_A": (0, 1.0), "lora_B": (1, -1.0)}
"""The two factors: the dimension along which the start is put beside the trained one, and its sign."""


def remember_start(model: nn.Module) -> None:
    """Keep the adapters' first weights with the model; a few megabytes, on the CPU."""
    start = {
        name: parameter.detach().cpu().clone()
        for name, parameter in model.named_parameters()
        if any(f".{part}." in name for part in _PARTS)
    }
    setattr(model, _START, start)


def on_unchanged_base(model: Any, weights: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], Any]:
    """A trained adapter for the base as it was before training.

    Args:
        model: The peft model that was trained.
        weights: Its trained parameters by name.

    Returns:
        The weights to save, and the peft config to save with them; None: the model's own.
    """
    start: dict[str, torch.Tensor] | None = getattr(model, _START, None)
    if start is None:
        return dict(weights), None
    settings = copy.deepcopy(model.peft_config["default"])
    settings.inference_mode = True
    settings.init_lora_weights = True
    settings.r *= 2
    settings.lora_alpha *= 2**0.5 if settings.use_rslora else 2
    return {name: _with_start(name, weight, start.get(name)) for name, weight in weights.items()}, settings


def _with_start(name: str, weight: torch.Tensor, start: torch.Tensor | None) -> torch.Tensor:
    if start is None:
        return weight
    dimension, sign = next(how for part, how in _PARTS.items() if f".{part}." in name)
    return torch.cat([weight, sign * start.to(weight.dtype)], dimension)
