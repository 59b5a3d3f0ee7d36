"""``strategy: auto``: the quickest strategy for which the workers have memory, and why it is that one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from luthier.cluster.planning.machine import in_bf16, memory_bytes
from luthier.cluster.planning.memory import estimate
from luthier.cluster.planning.microbatch import MicroBatch, largest_micro_batch, rows_of
from luthier.cluster.planning.shapes import Shapes, weight_shapes
from luthier.config import RunConfig
from luthier.config.compatibility import refusal
from luthier.config.train import TrainConfig
from luthier.errors import ModelError

GIB = 2**30

SHARE = 0.9
"""Of a device's memory that an estimate may fill; the rest is for the runtime, fragments and what it leaves out."""

_CANDIDATES = ("ddp", "z2", "fsdp2", "z2_offload", "z3_offload")
"""From the quickest to the most frugal: what is divided has to be sent, and the host's memory is far away. z1 and z3
would give nothing that z2 and fsdp2 do not."""

GPU_GIB = {
    "A10G": 24,
    "A100": 40,
    "A100-40G": 40,
    "A100-80G": 80,
    "B200": 180,
    "H100": 80,
    "H200": 141,
    "L4": 24,
    "L40S": 48,
    "RTX-4090": 24,
    "T4": 16,
    "V100": 16,
}
"""Memory by Ray's name of the accelerator; the smallest there is where a name stands for several."""


@dataclass(frozen=True)
class Room:
    """Memory that one worker can use.

    Attributes:
        num_bytes: How much; None: unknown.
        source: Whose it is, or why it is unknown.
    """

    num_bytes: int | None
    source: str


class Choice(BaseModel):
    """What ``strategy: auto`` stands for in one run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    row: str
    """A row of the table of what goes together."""

    reason: str

    def settled(self, cfg: RunConfig) -> RunConfig:
        """The config with the choice in place of ``auto``."""
        return cfg.model_copy(update={"train": with_strategy(cfg.train, self.row)})


def with_strategy(train: TrainConfig, row: str) -> TrainConfig:
    """The settings with a strategy by its row's name."""
    named = {"strategy": row} if row in ("ddp", "fsdp2") else {"strategy": "deepspeed", "deepspeed": row}
    return train.model_copy(update=named)


def choose(cfg: RunConfig, resources: Mapping[str, float] | None) -> Choice:
    """Pick a strategy for a run whose config leaves it open.

    Args:
        cfg: The run's config.
        resources: What the cluster has, as ``ray.cluster_resources()`` gives it; None: unknown.
    """
    try:
        shapes = weight_shapes(cfg.model, offline=cfg.offline)
    except ModelError as error:
        return _unmeasured(cfg.train, str(error))
    cfg = in_bf16(cfg)
    batch = largest_micro_batch(cfg, rows_of(cfg))
    return choose_for(cfg.train, shapes, worker_room(cfg, resources), batch)


def choose_for(train: TrainConfig, shapes: Shapes, room: Room, batch: MicroBatch) -> Choice:
    """The first candidate that fits; where none does, the one that comes nearest.

    Args:
        train: Method, precision, batch size and number of workers.
        shapes: The model's weights.
        room: What each worker has.
        batch: The largest micro-batch.
    """
    if room.num_bytes is None:
        return _unmeasured(train, room.source)
    needs: dict[str, int] = {}
    for row in allowed(train):
        needs[row] = estimate(shapes, with_strategy(train, row), batch).total_bytes
        if needs[row] <= SHARE * room.num_bytes:
            return Choice(row=row, reason=_why(row, needs, room, train))
    least = min(needs, key=needs.__getitem__)
    return Choice(
        row=least,
        reason=f"nothing fits: {_figures(needs)} of {room.num_bytes / GIB:.1f} GiB per worker ({room.source}); {least} "
        "takes the least. Lower train.per_device_train_batch_size, set train.gradient_checkpointing, or add workers",
    )


def worker_room(cfg: RunConfig, resources: Mapping[str, float] | None) -> Room:
    """Memory of one worker: of its GPU, or its share of the machines' memory.

    Args:
        cfg: Names the cluster and what workers reserve.
        resources: What the cluster has; None: unknown.
    """
    if cfg.train.use_gpu:
        return _gpu_room(cfg.train, resources or {})
    workers = cfg.train.max_workers
    if cfg.cluster.address is None and not os.environ.get("RAY_ADDRESS"):
        machine = memory_bytes()
        return Room(machine // workers, f"this machine's {machine / GIB:.1f} GiB for {workers} worker(s)")
    memory = int((resources or {}).get("memory", 0))
    if not memory:
        return Room(None, "the cluster was not asked for its memory")
    return Room(memory // workers, f"the cluster's {memory / GIB:.1f} GiB for {workers} worker(s)")


def accelerator_of(train: TrainConfig, resources: Mapping[str, float] | None) -> str | None:
    """The kind of GPU that workers get, by Ray's name: the one that they ask for, or the one of least memory that the
    cluster has; None: unknown."""
    kinds = _kinds(train.resources_per_worker) or _kinds(resources or {})
    known = [kind for kind in kinds if kind in GPU_GIB]
    if not known or len(known) < len(kinds):
        return None
    return min(known, key=GPU_GIB.__getitem__)


def _gpu_room(train: TrainConfig, resources: Mapping[str, float]) -> Room:
    kind = accelerator_of(train, resources)
    if kind is None:
        kinds = ", ".join(_kinds(resources)) or "of a kind that Ray does not name"
        return Room(None, f"the memory of its GPUs ({kinds}) is unknown")
    return Room(GPU_GIB[kind] * GIB, f"a {kind}")


def _kinds(resources: Mapping[str, float]) -> list[str]:
    return sorted(key.partition(":")[2] for key in resources if key.startswith("accelerator_type:"))


def allowed(train: TrainConfig) -> tuple[str, ...]:
    """Candidates that the method goes with, and that give something: one worker has nobody to divide with, and on a
    CPU the device's memory is the host's."""
    return tuple(
        row
        for row in _CANDIDATES
        if not any(refusal(row, method, train.device) for method in train.method_columns)
        and (train.max_workers > 1 or row == "ddp" or row.endswith("_offload"))
        and (train.use_gpu or not row.endswith("_offload"))
    )


def _unmeasured(train: TrainConfig, problem: str) -> Choice:
    rows = allowed(train)
    row = "fsdp2" if "fsdp2" in rows else rows[0]
    why = "divides the most among workers" if row == "fsdp2" else "is all that is left"
    return Choice(row=row, reason=f"what fits can't be told, and {row} {why}: {problem}")


def _why(row: str, needs: Mapping[str, int], room: Room, train: TrainConfig) -> str:
    have = f"of {(room.num_bytes or 0) / GIB:.1f} GiB per worker ({room.source})"
    if row == "ddp":
        return f"the whole model fits every worker, which is the quickest: {_figures(needs)} {have}"
    divided = {"z2": "gradients and optimizer state are divided", "fsdp2": "weights are divided as well"}
    what = divided.get(row, "the host keeps what the GPU can't")
    return f"{what} among {train.max_workers} worker(s), and it fits: {_figures(needs)} {have}"


def _figures(needs: Mapping[str, int]) -> str:
    return ", ".join(f"{row} takes {size / GIB:.1f}" for row, size in needs.items())
