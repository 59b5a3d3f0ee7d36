"""What makes training faster without changing what it computes: applied to a model that is ready to train."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from luthier.config.train import TrainConfig
from luthier.errors import ConfigError
from luthier.trainers.batches import Batch, collate_flat
from luthier.trainers.flat_attention import why_not_flat
from luthier.trainers.fused import fuse_layers
from luthier.trainers.tokens import Encoded

log = logging.getLogger(__name__)

Collate = Callable[[Sequence[Encoded]], Batch]


def speed_up(model: nn.Module, train: TrainConfig, pad_id: int) -> Collate | None:
    """Set a model up as the config asks, before a strategy wraps it.

    Args:
        model: The model to train; changed in place.
        train: Its ``padding_free``, ``packing``, ``fused_layers``, ``torch_compile`` and ``use_liger_kernel`` are used.
        pad_id: Padding token.

    Returns:
        What lays rows out flat; None: they are to be padded, as the objective does it.

    Raises:
        ConfigError: The model's attention rules out what is asked for, or Liger is not installed.
    """
    flat = train.learns_tokens and _set_flat(model, train)
    if train.use_liger_kernel:
        _apply_liger(model)
    if train.fused_layers:
        fuse_layers(model)
    if train.torch_compile:
        _compile(model)
    if not flat:
        return None
    drops = any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules())
    return partial(collate_flat, pad_id=pad_id, share=not drops)


def _set_flat(model: nn.Module, train: TrainConfig) -> bool:
    if train.padding_free is False:
        return False
    reason = why_not_flat(model)
    if reason is None:
        return True
    if train.packing or train.padding_free is True:
        key = "packing" if train.packing else "padding_free"
        raise ConfigError(f"train.{key}: this model can't learn from rows without padding: {reason}; set it to false.")
    log.info("micro-batches are padded: %s", reason)
    return False


def _apply_liger(model: Any) -> None:
    """Liger's layer kernels; its loss is left out, as ours needs no logits either."""
    if importlib.util.find_spec("liger_kernel") is None:
        raise ConfigError("train.use_liger_kernel: the package is not installed; run: pip install liger-kernel")
    from liger_kernel.transformers import _apply_liger_kernel_to_instance  # type: ignore[import-not-found]

    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    _apply_liger_kernel_to_instance(model=causal, fused_linear_cross_entropy=False, cross_entropy=False)


def _compile(model: Any) -> None:
    """Compile decoder layers one by one: they share one compilation, and what is between them stays as it is."""
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    kinds = set(getattr(causal, "_no_split_modules", None) or ())
    layers = [module for module in causal.modules() if type(module).__name__ in kinds]
    if not layers:
        raise ConfigError("train.torch_compile: the model does not tell its decoder layers; set it to false.")
    torch._dynamo.config.allow_unspec_int_on_nn_module = True
    for layer in layers:
        layer.compile(dynamic=True)
