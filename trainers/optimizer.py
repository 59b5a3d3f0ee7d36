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


def settle_rates(optimizer: torch.optim.AdamW, schedule: Any, train: TrainConfig) -> None:
    """Let learning rate and weight decay be what the config says, where a state was loaded that another one left."""
    schedule.base_lrs = [train.learning_rate] * len(schedule.base_lrs)
    factors = [factor(schedule.last_epoch) for factor in schedule.lr_lambdas]
    for group, factor in zip(optimizer.param_groups, factors, strict=True):
        group["initial_lr"] = train.learning_rate
        group["lr"] = train.learning_rate * factor
        if group["params"][0].ndim >= 2:
            group["weight_decay"] = train.weight_decay
    schedule._last_lr = [group["lr"] for group in optimizer.param_groups]
