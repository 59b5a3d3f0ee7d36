"""The strategy and the micro-batch that a run could use with the memory that there is."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from luthier.cluster.planning.choosing import GIB, SHARE, Room, allowed, with_strategy
from luthier.cluster.planning.memory import MemoryEstimate, estimate
from luthier.cluster.planning.microbatch import largest_micro_batch
from luthier.cluster.planning.rowcount import RowLength
from luthier.cluster.planning.shapes import Shapes
from luthier.config import RunConfig


class Proposal(BaseModel):
    """Settings that fit, with as many rows a step as the config's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    overrides: tuple[str, ...]
    """To be copied behind the config's name on a command line."""

    memory_per_worker_bytes: int
    reason: str


def propose(
    cfg: RunConfig, shapes: Shapes, lengths: list[RowLength] | None, room: Room, num_steps: int | None
) -> Proposal | None:
    """The quickest strategy that fits, with the largest micro-batch that fits.

    Args:
        cfg: The run's config, ``bf16`` decided.
        shapes: The weights.
        lengths: Of the training rows.
        room: What each worker has.
        num_steps: Optimizer steps.

    Returns:
        The proposal; None where a worker's memory is not known, or nothing fits.
    """
    if room.num_bytes is None:
        return None
    rows = cfg.train.per_device_train_batch_size * cfg.train.gradient_accumulation_steps
    for checkpointing in dict.fromkeys((cfg.train.gradient_checkpointing, True)):
        for row in allowed(cfg.train):
            for size in _sizes(rows):
                tried = _with(cfg, row, size, rows // size, checkpointing=checkpointing)
                batch = largest_micro_batch(tried, lengths)
                memory = estimate(shapes, tried.train, batch, num_steps=num_steps)
                if memory.total_bytes <= SHARE * room.num_bytes:
                    return Proposal(
                        overrides=_overrides(row, tried),
                        memory_per_worker_bytes=memory.total_bytes,
                        reason=_reason(memory, room, rows),
                    )
    return None


def _sizes(rows: int) -> list[int]:
    """Powers of two that divide a worker's rows of a step, the largest first."""
    return [2**power for power in range(rows.bit_length() - 1, -1, -1) if rows % 2**power == 0]


def _with(cfg: RunConfig, row: str, size: int, accumulation: int, *, checkpointing: bool) -> RunConfig:
    train = with_strategy(cfg.train, row).model_copy(
        update={
            "per_device_train_batch_size": size,
            "gradient_accumulation_steps": accumulation,
            "gradient_checkpointing": checkpointing,
        }
    )
    return cfg.model_copy(update={"train": train})


def _overrides(row: str, cfg: RunConfig) -> tuple[str, ...]:
    train = cfg.train
    strategy = (f"train.strategy={row}",) if row in ("ddp", "fsdp2") else ("train.strategy=deepspeed",)
    zero = () if row in ("ddp", "fsdp2") else (f"train.deepspeed={row}",)
    return (
        *strategy,
        *zero,
        f"train.per_device_train_batch_size={train.per_device_train_batch_size}",
        f"train.gradient_accumulation_steps={train.gradient_accumulation_steps}",
        *(("train.gradient_checkpointing=true",) if train.gradient_checkpointing else ()),
    )


def _reason(memory: MemoryEstimate, room: Room, rows: int) -> str:
    return (
        f"{memory.total_bytes / GIB:.1f} of {(room.num_bytes or 0) / GIB:.1f} GiB per worker ({room.source}); "
        f"{rows} rows per worker and step as before"
    )
