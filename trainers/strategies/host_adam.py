"""AdamW for optimizer state that the host's memory keeps: DeepSpeed's vectorised one, where it can be built."""

from __future__ import annotations

import logging

import torch

log = logging.getLogger(__name__)


def host_adam(optimizer: torch.optim.AdamW) -> torch.optim.Optimizer:
    """DeepSpeed's CPU Adam (Ren et al. 2021) with an optimizer's groups and settings; it is compiled when first used.

    Args:
        optimizer: torch's AdamW, not stepped yet. It is what comes back where DeepSpeed's can't be built.
    """
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    settings = {name: optimizer.defaults[name] for name in ("lr", "betas", "eps")}
    try:
        built: torch.optim.Optimizer = DeepSpeedCPUAdam(optimizer.param_groups, adamw_mode=True, **settings)
    except Exception as error:  # a missing compiler, header or library: DeepSpeed raises what its build does
        log.warning("DeepSpeed's CPU Adam can't be built here (%s); torch's AdamW is used, which is slower.", error)
        return optimizer
    return built
