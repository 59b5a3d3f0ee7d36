"""How many parameters a model has and how many of them a method trains, from the shapes of the weights alone."""

from __future__ import annotations

import math

from luthier.cluster.planning.shapes import Shapes
from luthier.config.train import TrainConfig
from luthier.freezing import is_frozen

_NOT_ADAPTED = ("embed", "lm_head", "wte", "wpe")
"""peft's "all-linear" leaves embeddings and the output layer out."""


def num_parameters(shapes: Shapes) -> int:
    """Parameters of the model."""
    return sum(map(math.prod, shapes.values()))


def num_trainable(shapes: Shapes, train: TrainConfig) -> int:
    """Parameters that the method trains: all, or r * (in + out) per adapted layer (Hu et al. 2021)."""
    if train.classification.freeze_body:
        return sum(math.prod(shape) for name, shape in shapes.items() if "pooler" in name)  # and the small new head
    if train.method == "full":
        return sum(math.prod(shape) for name, shape in shapes.items() if is_trained(name, train))
    total = 0
    for name, shape in shapes.items():
        if any(f".{module}." in f".{name}" for module in train.lora_modules_to_save):
            total += math.prod(shape)
        if is_adapted(name, shape, train):
            total += train.lora_r * sum(shape) + (shape[0] if train.use_dora else 0)  # DoRA: one magnitude per output
    return total


def is_trained(name: str, train: TrainConfig) -> bool:
    """Whether full fine-tuning changes a weight."""
    return not is_frozen(name, train.freeze_layers, train.freeze_modules)


def is_adapted(name: str, shape: tuple[int, ...], train: TrainConfig) -> bool:
    """Whether a weight gets an adapter."""
    module = name.removesuffix(".weight")
    if len(shape) != 2 or module == name:
        return False
    if train.lora_target_modules == "all-linear":
        return not any(part in module for part in _NOT_ADAPTED)
    return any(module == target or module.endswith(f".{target}") for target in train.lora_target_modules)


def largest_trained(shapes: Shapes, train: TrainConfig) -> int:
    """Numbers in the largest weight that is trained; of adapters, the larger of a layer's two."""
    if train.method == "full":
        return max((math.prod(shape) for name, shape in shapes.items() if is_trained(name, train)), default=0)
    return max((train.lora_r * max(s) for name, s in shapes.items() if is_adapted(name, s, train)), default=0)
