"""What a run tells DeepSpeed: a named ZeRO stage, or the user's own JSON with the run's values in it."""

from __future__ import annotations

import copy
from typing import Any

from luthier.config.deepspeed_file import AUTO
from luthier.config.train import TrainConfig

MOST_IN_A_BUCKET = 500_000_000
"""Gradients that are reduced together at most: DeepSpeed's default, for which it makes a buffer at every step. A small
model or an adapter needs no gigabyte of it."""


def zero_config(train: TrainConfig, *, hidden_size: int, num_trained: int, on_gpu: bool) -> dict[str, Any]:
    """The DeepSpeed configuration of a run.

    Args:
        train: The settings, ``bf16`` decided. A JSON of the user's has been checked when the config was loaded.
        hidden_size: Of the model, for bucket sizes that a JSON leaves open.
        num_trained: Trained parameters.
        on_gpu: Whether workers compute on a GPU.
    """
    ours = {
        "train_micro_batch_size_per_gpu": train.per_device_train_batch_size,
        "gradient_accumulation_steps": train.gradient_accumulation_steps,
        "gradient_clipping": train.max_grad_norm,
        "bf16": {"enabled": train.bf16},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    if train.deepspeed is None or isinstance(train.deepspeed, str):
        section = _stage(train.deepspeed or "z0", on_gpu=on_gpu)
        section["reduce_bucket_size"] = min(num_trained, MOST_IN_A_BUCKET)
        return {**ours, "zero_optimization": section, "steps_per_print": 2**31}
    theirs: dict[str, Any] = copy.deepcopy(train.deepspeed.settings)
    # The optimizer and its schedule are luthier's own; the file may only agree with them. DeepSpeed works out the
    # batch size from the rest, and by the workers that there really are.
    for key in ("optimizer", "scheduler", "train_batch_size", "fp16"):
        theirs.pop(key, None)
    theirs.setdefault("steps_per_print", 2**31)
    zero = theirs.setdefault("zero_optimization", {})
    for key, value in _by_model(hidden_size).items():
        if zero.get(key) == AUTO:
            zero[key] = value
    zero.setdefault("overlap_comm", False)
    return {**theirs, **ours, "bf16": {**theirs.get("bf16", {}), **ours["bf16"]}}  # type: ignore[dict-item]


def offloads_optimizer(settings: dict[str, Any]) -> bool:
    """Whether a DeepSpeed configuration keeps the optimizer's state in the host's memory."""
    section = settings["zero_optimization"].get("offload_optimizer") or {}
    return bool(section.get("device", "none") != "none")


def _stage(name: str, *, on_gpu: bool) -> dict[str, Any]:
    """A named stage; page-locked host memory is quicker to copy from, and only a GPU copies."""
    number = int(name[1])
    section: dict[str, Any] = {"stage": number, "overlap_comm": False, "contiguous_gradients": True}
    if name.endswith("_offload"):
        host = {"device": "cpu", "pin_memory": on_gpu}
        section["offload_optimizer"] = host
        if number == 3:
            section["offload_param"] = host
    return section


def _by_model(hidden_size: int) -> dict[str, int]:
    """Bucket sizes as transformers' Trainer derives them from the model's width."""
    return {
        "reduce_bucket_size": hidden_size * hidden_size,
        "stage3_prefetch_bucket_size": int(0.9 * hidden_size * hidden_size),
        "stage3_param_persistence_threshold": 10 * hidden_size,
    }
