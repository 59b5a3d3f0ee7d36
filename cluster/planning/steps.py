"""Optimizer steps and rows of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence

from luthier.cluster.planning.rowcount import DataSize
from luthier.config import RunConfig


def all_steps(parts: Sequence[RunConfig], sizes: Sequence[DataSize | None]) -> int | None:
    """Optimizer steps of all trainings together."""
    steps = [optimizer_steps(part, size) for part, size in zip(parts, sizes, strict=True)]
    known = [number for number in steps if number is not None]
    return sum(known) if len(known) == len(steps) else None


def rows_per_step(cfg: RunConfig) -> int:
    """Rows that one optimizer step learns from, over all workers."""
    train = cfg.train
    return train.per_device_train_batch_size * train.gradient_accumulation_steps * train.max_workers


def optimizer_steps(cfg: RunConfig, data: DataSize | None) -> int | None:
    """Optimizer steps of one training; None where neither the data nor ``max_steps`` tells."""
    limit, epoch = cfg.train.max_steps, steps_per_epoch(cfg, data)
    if epoch is None:
        return limit
    steps = epoch * cfg.train.num_train_epochs
    return steps if limit is None else min(steps, limit)


def steps_per_epoch(cfg: RunConfig, data: DataSize | None) -> int | None:
    """Optimizer steps of an epoch."""
    return None if data is None else math.ceil(data.rows / rows_per_step(cfg))


def num_trials(cfg: RunConfig) -> int:
    """Trials of the run's sweep."""
    if cfg.tune is None:
        return 0
    grids = (len(domain.values) for domain in cfg.tune.search_space.values() if domain.type == "grid")
    return cfg.tune.num_samples * math.prod(grids)
