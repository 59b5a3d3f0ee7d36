"""Tokens, operations, hours and cost of all that a run computes: training, and the trials of its sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict

from luthier.cluster.planning.choosing import accelerator_of
from luthier.cluster.planning.costs import (
    CPU_UTILISATION,
    TFLOPS,
    UTILISATION,
    Prices,
    Range,
    cost,
    cpu_flops_per_s,
    hours,
    read_prices,
    training_flops,
)
from luthier.cluster.planning.rowcount import DataSize
from luthier.cluster.planning.shapes import Shapes
from luthier.cluster.planning.steps import num_trials, optimizer_steps, rows_per_step
from luthier.config import RunConfig, apply_overrides


class Effort(BaseModel):
    """What a run computes, evaluation and serving left out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: int
    """Learned from, over all epochs."""

    trial_tokens: int
    """By all trials of the sweep together, where none is stopped early."""

    flops: int
    device: str | None
    """An accelerator by Ray's name, or ``CPU``; None: unknown."""

    num_devices: float
    hours: Range | None
    cost: Range | None
    currency: str
    prices_as_of: str
    notes: tuple[str, ...]


def effort(
    cfg: RunConfig,
    shapes: Shapes,
    parts: Sequence[RunConfig],
    sizes: Sequence[DataSize | None],
    resources: Mapping[str, float] | None,
    prices: Prices | None,
    *,
    measure_speed: bool,
) -> Effort | None:
    """The effort of a run; None where its tokens are unknown.

    Args:
        cfg: The run's config, ``bf16`` decided.
        shapes: The weights.
        parts: Its trainings.
        sizes: Their data.
        resources: What the cluster has; None: unknown.
        prices: The table; None: the examples.
        measure_speed: Whether this machine's speed may be measured.
    """
    tokens, flops = 0, 0
    for part, size in zip(parts, sizes, strict=True):
        seen = _tokens(part, size)
        if seen is None or size is None:
            return None
        tokens += seen
        flops += training_flops(shapes, part.train, tokens=seen, row_tokens=size.tokens / size.rows)
    trial_tokens, trial_flops = _trials(cfg, shapes, sizes[0])
    notes: list[str] = []
    device, num_devices = _devices(cfg, resources)
    flops_per_s = _speed(cfg, device, notes, measure_speed=measure_speed)
    table = prices or read_prices()
    taken = charged = None
    if flops_per_s is not None:
        utilisation = CPU_UTILISATION if device == "CPU" else UTILISATION
        taken = hours(flops + trial_flops, flops_per_s * num_devices, utilisation)
        charged = cost(taken, table, accelerator=None if device == "CPU" else device, units=num_devices)
        if charged is None:
            notes.append(f"the price table has no {device}; give your own with --prices FILE.")
    return Effort(
        tokens=tokens,
        trial_tokens=trial_tokens,
        flops=flops + trial_flops,
        device=device,
        num_devices=num_devices,
        hours=taken,
        cost=charged,
        currency=table.currency,
        prices_as_of=table.as_of,
        notes=tuple(notes),
    )


def _tokens(cfg: RunConfig, size: DataSize | None) -> int | None:
    """Tokens that a training sees."""
    steps = optimizer_steps(cfg, size)
    if size is None or steps is None:
        return None
    rows = min(steps * rows_per_step(cfg), size.rows * cfg.train.num_train_epochs)
    return round(rows * size.tokens / size.rows)


def _trials(cfg: RunConfig, shapes: Shapes, size: DataSize | None) -> tuple[int, int]:
    if cfg.tune is None or size is None:
        return 0, 0
    trial, number = apply_overrides(cfg, cfg.tune.overrides), num_trials(cfg)
    tokens = number * (_tokens(trial, size) or 0)
    return tokens, training_flops(shapes, trial.train, tokens=tokens, row_tokens=size.tokens / size.rows)


def _devices(cfg: RunConfig, resources: Mapping[str, float] | None) -> tuple[str | None, float]:
    """What is computed on, and how many of it are held."""
    train = cfg.train
    if not train.use_gpu:
        return "CPU", train.max_workers * train.resources_per_worker.get("CPU", 1.0)
    return accelerator_of(train, resources), train.max_workers * train.resources_per_worker["GPU"]


def _speed(cfg: RunConfig, device: str | None, notes: list[str], *, measure_speed: bool) -> float | None:
    """Operations a second of one device at its best; None: unknown, and a note says why."""
    if device in TFLOPS:
        return TFLOPS[device] * 1e12
    if device != "CPU":
        kind = "of a kind that Ray does not name" if device is None else device
        notes.append(
            f"hours are unknown: no speed is known of its GPUs ({kind}); name one with "
            "train.resources_per_worker: {accelerator_type:H100: 0.001}, or ask the cluster with --address."
        )
        return None
    if cfg.cluster.address is not None:
        notes.append("hours are unknown: the speed of the cluster's CPUs can't be measured from here.")
        return None
    if not measure_speed:
        return None
    measured = cpu_flops_per_s(bf16=cfg.train.bf16 is True)
    if measured is None:
        notes.append("hours are unknown: torch, which would tell this machine's speed, can't be imported.")
    return measured
