"""Fine-tuning of the real small model on real Ray Train workers, in float32 so that runs can be compared."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from luthier.config import RunConfig
from luthier.errors import TrainingDiverged
from luthier.manifest import load_manifest, verify
from luthier.trainers.fit import TrainResult, train
from luthier.trainers.inprocess import train_in_process
from luthier.trainers.metrics_stream import FILE_NAME, Metrics, read_metrics

pytestmark = pytest.mark.usefixtures("ray_session")

MakeConfig = Callable[..., RunConfig]
STAGES = ("z0", "z1", "z2", "z3")
LOSS_TOLERANCE = 2e-4
"""Nats by which float32 losses of the same rows may differ when they are summed in another order."""

ALONE: dict[str, list[Metrics]] = {}
"""Metrics of three steps by one worker, by training method; filled by the first test that compares with it."""


def alone(make_config: MakeConfig, method: str, base_model_dir: Path, workdir: Path) -> list[Metrics]:
    """Three steps in this process, without Ray Train and without a group of workers."""
    if method not in ALONE:
        cfg = make_config(method=method, eval_steps=1)
        train_in_process(cfg, base_model_dir=base_model_dir, workdir=workdir, report=lambda row, path: None)
        ALONE[method] = read_metrics(workdir / FILE_NAME)
    return ALONE[method]


def agree(rows: Sequence[Metrics], expected: Sequence[Metrics], name: str = "loss", tolerance: float = LOSS_TOLERANCE) -> None:
    assert [row[name] for row in rows] == pytest.approx([row[name] for row in expected], abs=tolerance)


def test_two_workers_learn_what_one_learns(make_config: MakeConfig, base_model_dir: Path, tmp_path: Path) -> None:
    expected = alone(make_config, "lora", base_model_dir, tmp_path / "alone")
    cfg = make_config(num_workers=2, per_device_train_batch_size=1, gradient_accumulation_steps=2, eval_steps=1)
    seen: list[Metrics] = []
    result = train(cfg, base_model_dir=base_model_dir, workdir=tmp_path / "pair", on_metrics=seen.append)
    assert [row["step"] for row in result.metrics] == [1, 2, 3]
    agree(result.metrics, expected)
    agree(result.metrics, expected, "eval_loss")
    agree(result.metrics, expected, "grad_norm", 1e-2)
    agree(result.metrics, expected, "loss_tokens", 0)
    assert seen == list(result.metrics)


@pytest.mark.parametrize("stage", STAGES)
def test_deepspeed_stages_agree_with_one_worker_and_continue(
    stage: str, make_config: MakeConfig, base_model_dir: Path, tmp_path: Path
) -> None:
    expected = alone(make_config, "lora", base_model_dir, tmp_path / "alone")
    shared: dict[str, Any] = {"strategy": "deepspeed", "deepspeed": stage, "num_workers": 2, "eval_steps": 1}
    cfg = make_config(**shared, per_device_train_batch_size=1, gradient_accumulation_steps=2, max_steps=2)
    first = train(cfg, base_model_dir=base_model_dir, workdir=tmp_path / "run")
    agree(first.metrics, expected[:2])
    agree(first.metrics, expected[:2], "eval_loss")
    agree(first.metrics, expected[:2], "grad_norm", 1e-2)
    more = make_config(**shared, per_device_train_batch_size=1, gradient_accumulation_steps=2)
    result = train(more, base_model_dir=base_model_dir, workdir=tmp_path / "run")
    assert [row["step"] for row in result.metrics] == [1, 2, 3]
    assert result.metrics[:2] == first.metrics
    agree(result.metrics, expected)
    agree(result.metrics, expected, "eval_loss")
