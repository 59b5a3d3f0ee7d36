"""Configs on a few real rows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from luthier.config import RunConfig
from tests.conftest import small_config

ConfigAt = Callable[..., RunConfig]

SETTINGS: dict[str, Any] = {
    "bf16": False,
    "num_workers": 2,
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 2,
    "num_train_epochs": 5,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "linear",
    "lora_dropout": 0.1,
    "save_steps": 2,
    "eval_steps": 5,
    "log_samples": True,
}
"""12 rows, 4 a step: 3 steps an epoch, 15 in all, a checkpoint every other step."""


@pytest.fixture(scope="session")
def config_at(small_data: Path) -> ConfigAt:
    """Configs that write below a directory; float32, so that runs can be compared to the last bit."""
    return partial(make_config_at, small_data)


def make_config_at(data: Path, directory: Path, **train: Any) -> RunConfig:
    """The same for a process of its own."""
    return small_config(data, directory, **{**SETTINGS, **train})
