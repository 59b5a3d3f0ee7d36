"""Configs on a few real rows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from luthier.config import RunConfig
from luthier.trainers.inprocess import make_job
from luthier.trainers.loop import train_loop
from luthier.trainers.strategies import Worker
from tests.chaos.harness import Outcome
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

STRATEGIES: dict[str, dict[str, Any]] = {"ddp": {}, "z2": {"strategy": "deepspeed", "deepspeed": "z2"}}


@pytest.fixture(scope="session")
def config_at(small_data: Path) -> ConfigAt:
    """Configs that write below a directory; float32, so that runs can be compared to the last bit."""
    return partial(make_config_at, small_data)


def make_config_at(data: Path, directory: Path, **train: Any) -> RunConfig:
    """The same for a process of its own."""
    return small_config(data, directory, **{**SETTINGS, **train})


@pytest.fixture(scope="session")
def left_alone(
    ray_session: Any, config_at: ConfigAt, shallow_base_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Outcome]:
    """Each strategy's training without a disturbance, by one group of workers."""
    import ray.train
    from ray.train.torch import TorchTrainer

    directory = tmp_path_factory.mktemp("alone")
    jobs = {
        name: make_job(config_at(directory, **settings), shallow_base_dir, directory / name)
        for name, settings in STRATEGIES.items()
    }

    def train_all() -> None:
        torch.set_num_threads(1)
        context = ray.train.get_context()
        worker = Worker(context.get_world_rank(), context.get_world_size(), torch.device("cpu"))
        for job in jobs.values():
            job.workdir.mkdir(exist_ok=True)
            train_loop(job, worker, lambda metrics, checkpoint: None)

    place = ray.train.RunConfig(name="ray", storage_path=str(directory))
    TorchTrainer(train_all, scaling_config=ray.train.ScalingConfig(num_workers=2), run_config=place).fit()
    return {name: Outcome.of(job.workdir) for name, job in jobs.items()}
