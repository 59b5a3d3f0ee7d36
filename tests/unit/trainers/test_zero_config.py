"""What DeepSpeed is told: a named stage, or the user's JSON with the run's values in it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from luthier.config.deepspeed_file import DeepspeedFile
from luthier.config.train import TrainConfig
from luthier.trainers.strategies.zero_config import offloads_optimizer, zero_config

SHIPPED = Path(__file__).parents[3] / "configs" / "deepspeed" / "zero2-offload.json"


def told(deepspeed: Any, *, on_gpu: bool = False, **train: Any) -> dict[str, Any]:
    settings = TrainConfig.model_validate({"strategy": "deepspeed", "deepspeed": deepspeed, **train})
    return zero_config(settings.model_copy(update={"bf16": True}), hidden_size=64, num_trained=1_000, on_gpu=on_gpu)


@pytest.mark.parametrize(
    ("stage", "offload"), [("z0", False), ("z3", False), ("z2_offload", True), ("z3_offload", True)]
)
def test_a_named_stage_is_told_with_the_runs_values(stage: str, offload: bool) -> None:
    settings = told(stage, max_grad_norm=0.5, per_device_train_batch_size=3, gradient_accumulation_steps=2)
    assert settings["zero_optimization"]["stage"] == int(stage[1])
    assert settings["gradient_clipping"] == 0.5
    assert (settings["train_micro_batch_size_per_gpu"], settings["gradient_accumulation_steps"]) == (3, 2)
    assert settings["bf16"] == {"enabled": True}
    assert offloads_optimizer(settings) is offload
    assert ("offload_param" in settings["zero_optimization"]) is (stage == "z3_offload")


def test_a_bucket_is_no_larger_than_all_gradients() -> None:
    assert told("z2")["zero_optimization"]["reduce_bucket_size"] == 1_000


def test_only_a_gpu_copies_from_page_locked_memory() -> None:
    assert told("z2_offload", on_gpu=True)["zero_optimization"]["offload_optimizer"]["pin_memory"] is True
    assert told("z2_offload")["zero_optimization"]["offload_optimizer"]["pin_memory"] is False


def test_no_auto_is_left_of_a_users_file_and_its_own_values_stay() -> None:
    theirs = json.loads(SHIPPED.read_text())
    theirs["zero_optimization"] |= {"stage3_param_persistence_threshold": "auto", "sub_group_size": 77}
    settings = told(DeepspeedFile(file="my.json", settings=theirs).model_dump(), max_grad_norm=0.25)
    assert '"auto"' not in json.dumps(settings)
    zero = settings["zero_optimization"]
    assert (zero["reduce_bucket_size"], zero["stage3_param_persistence_threshold"]) == (64 * 64, 640)
    assert (zero["sub_group_size"], zero["round_robin_gradients"], settings["gradient_clipping"]) == (77, True, 0.25)
    assert "optimizer" not in settings and "train_batch_size" not in settings
    assert offloads_optimizer(settings)


@pytest.mark.slow
def test_deepspeeds_cpu_adam_steps_as_torchs_does() -> None:
    import torch

    from luthier.trainers.strategies.host_adam import host_adam

    torch.manual_seed(0)
    start, gradient = torch.randn(8, 8), torch.randn(8, 8)
    stepped = []
    for convert in (False, True):
        weight = torch.nn.Parameter(start.clone())
        ours = torch.optim.AdamW([{"params": [weight], "weight_decay": 0.1}], lr=0.01)
        optimizer = host_adam(ours) if convert else ours
        if convert and optimizer is ours:
            pytest.skip("DeepSpeed's CPU Adam can't be built here")
        for _ in range(3):
            weight.grad = gradient.clone()
            optimizer.step()
        stepped.append(weight.detach())
    torch.testing.assert_close(stepped[1], stepped[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("minutes", "is_dead"), [(1, False), (20, True)])
def test_the_lock_of_a_build_that_was_killed_is_removed(
    minutes: int, *, is_dead: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from luthier.trainers.strategies.host_adam import _forget_dead_build

    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    _forget_dead_build()  # nothing was ever built
    (lock,) = [path / "lock" for path in tmp_path.rglob("cpu_adam")]
    lock.touch()
    then = time.time() - 60 * minutes
    os.utime(lock, (then, then))
    _forget_dead_build()
    assert lock.exists() is not is_dead
