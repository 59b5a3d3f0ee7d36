"""AdamW and its learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch

from luthier.config.train import TrainConfig


def build_optimizer(parameters: Iterable[torch.nn.Parameter], train: TrainConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019); vectors such as norms and biases are not decayed."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": train.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    # One pass over each weight and its state instead of some ten.
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=train.learning_rate, fused=True)


def build_schedule(optimizer: torch.optim.Optimizer, train: TrainConfig, num_steps: int) -> Any:
    """The learning-rate schedule of transformers that ``lr_scheduler_type`` names, over ``num_steps`` steps."""
    from transformers import get_scheduler

    warmup = math.ceil(train.warmup_ratio * num_steps)
    return get_scheduler(train.lr_scheduler_type, optimizer, num_warmup_steps=warmup, num_training_steps=num_steps)
