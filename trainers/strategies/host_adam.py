"""AdamW for optimizer state that the host's memory keeps: DeepSpeed's vectorised one, where it can be built."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import torch

log = logging.getLogger(__name__)

_BUILD_S = 900.0
"""Longer than the build takes on a slow machine."""


def host_adam(optimizer: torch.optim.AdamW) -> torch.optim.Optimizer:
    """DeepSpeed's CPU Adam (Ren et al. 2021) with an optimizer's groups and settings; it is compiled when first used.

    Args:
        optimizer: torch's AdamW, not stepped yet. It is what comes back where DeepSpeed's can't be built.
    """
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    settings = {name: optimizer.defaults[name] for name in ("lr", "betas", "eps")}
    try:
        _forget_dead_build()
        built: torch.optim.Optimizer = DeepSpeedCPUAdam(optimizer.param_groups, adamw_mode=True, **settings)
    except Exception as error:  # a missing compiler, header or library: DeepSpeed raises what its build does
        log.warning("DeepSpeed's CPU Adam can't be built here (%s); torch's AdamW is used, which is slower.", error)
        return optimizer
    return built


def _forget_dead_build() -> None:
    """Remove the lock of a build that was killed, for which every later one would wait for ever."""
    from torch.utils.cpp_extension import _get_build_directory

    lock = Path(_get_build_directory("cpu_adam", verbose=False)) / "lock"
    try:
        age_s = time.time() - lock.stat().st_mtime
    except FileNotFoundError:
        return
    if age_s > _BUILD_S:
        log.warning("%s: a build was cut off %.0f minutes ago; its lock is removed.", lock, age_s / 60)
        lock.unlink(missing_ok=True)
