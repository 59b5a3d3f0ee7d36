"""The process group of strategies that speak to one even where there is one worker alone."""

from __future__ import annotations

import os

import torch

from luthier.trainers.strategies.base import Worker


def backend_of(worker: Worker) -> str:
    """What carries messages between workers on this kind of device."""
    return "nccl" if worker.device.type == "cuda" else "gloo"


def join_group(worker: Worker) -> None:
    """Use the group that Ray Train has formed, or form a group of one where there is none."""
    if not torch.distributed.is_initialized():
        # A lone process, such as a sweep's trial: nobody to meet, so no address is needed.
        store = torch.distributed.HashStore()  # type: ignore[attr-defined]
        torch.distributed.init_process_group(backend_of(worker), rank=0, world_size=1, store=store)
        os.environ.setdefault("LOCAL_RANK", "0")
