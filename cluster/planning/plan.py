"""What a run will need, from its config alone: no weight is loaded, no Ray is started."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from luthier.cluster.planning.choosing import GIB, choose, worker_room
from luthier.cluster.planning.costs import Prices
from luthier.cluster.planning.effort import Effort, effort
from luthier.cluster.planning.machine import in_bf16, memory_bytes
from luthier.cluster.planning.memory import MemoryEstimate, estimate
from luthier.cluster.planning.microbatch import largest_micro_batch, rows_of
from luthier.cluster.planning.parameters import num_parameters, num_trainable
from luthier.cluster.planning.proposal import Proposal, propose
from luthier.cluster.planning.rowcount import DataSize, RowLength, size_of, together
from luthier.cluster.planning.shapes import Shapes, weight_shapes
from luthier.cluster.planning.steps import all_steps, num_trials, optimizer_steps, rows_per_step, steps_per_epoch
from luthier.cluster.planning.storage import Storage, storage
from luthier.cluster.planning.supply import Supply, Verdict, When, judge
from luthier.cluster.resources import Demand, demands
from luthier.config import RunConfig, config_hash
from luthier.config.sequence import trainings
from luthier.errors import ModelError

if TYPE_CHECKING:
    from rich.table import Table

PROCESS_BYTES = 600 * 2**20
"""Resident size of a worker before it loads a model: Python, torch, transformers, Ray and a tokenizer. Measured."""


class Plan(BaseModel):
    """A run's needs. A figure is None where its source can't be read from here; ``notes`` says why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    config_hash: str
    method: str
    strategy: str
    strategy_reason: str | None
    """Why ``strategy: auto`` came out as it did; None: the config named one."""

    num_workers: int
    parameters: int | None
    trainable_parameters: int | None
    memory_per_worker: MemoryEstimate | None
    memory_per_worker_bytes: int | None
    host_memory_per_worker_bytes: int | None
    """Of the machine's main memory, the process itself included."""

    storage: Storage | None
    data: DataSize | None
    tokens_per_optimizer_step: int | None
    optimizer_steps: int | None
    num_trials: int
    effort: Effort | None
    """Tokens, operations, hours and cost of training and all trials."""

    demands: tuple[Demand, ...]
    scheduling: tuple[Verdict, ...]
    """When each stage can be placed; empty: the cluster was not asked."""

    schedulable: When
    """The worst of them."""

    proposal: Proposal | None
    notes: tuple[str, ...]


def plan(
    cfg: RunConfig, *, supply: Supply | None = None, prices: Prices | None = None, measure_speed: bool = False
) -> Plan:
    """Work out what a run needs.

    Args:
        cfg: The run's config.
        supply: What the target cluster has. None: for a run that starts its own cluster, this machine's CPUs; for a
            named cluster, unknown.
        prices: Of accelerators; None: the examples that luthier brings.
        measure_speed: Time a product on this machine, for the hours of a run on its CPUs; takes some seconds.

    Returns:
        The plan. Nothing is started or written, and a shortage is reported, not raised.
    """
    notes: list[str] = []
    supply = supply or _own(cfg)
    have = supply.resources() if supply else None
    reason, given_hash = None, config_hash(cfg)
    if cfg.train.strategy == "auto":
        choice = choose(cfg, have)
        cfg, reason = choice.settled(cfg), choice.reason
    cfg = in_bf16(cfg)
    parts = [in_bf16(part) for part in trainings(cfg)]
    lengths = [rows_of(part) for part in parts]
    sizes = [_size(part, rows) for part, rows in zip(parts, lengths, strict=True)]
    data = together(sizes)
    if data is None:
        notes.append("the training files can't be read from here, so tokens and steps are unknown.")
    steps = all_steps(parts, sizes)
    parameters = trainable = memory = disk = spent = proposal = None
    try:
        shapes = weight_shapes(cfg.model, offline=cfg.offline)
        parameters, trainable = num_parameters(shapes), num_trainable(shapes, cfg.train)
        memory = _memory(shapes, parts, lengths, sizes)
        disk = storage(shapes, cfg.train)
        notes.extend(_model_notes(cfg, trainable, memory))
        spent = effort(cfg, shapes, parts, sizes, have, prices, measure_speed=measure_speed)
        room = worker_room(cfg, have)
        proposal = propose(cfg, shapes, lengths[0], room, steps)
        notes.extend([*(spent.notes if spent else ()), *_proposal_notes(proposal, room.num_bytes, room.source)])
    except ModelError as error:
        notes.append(str(error))
    verdicts = tuple(judge(demand, supply) for demand in demands(cfg)) if supply else ()
    return Plan(
        name=cfg.name,
        config_hash=given_hash,
        method=cfg.train.method,
        strategy=cfg.train.strategy_row,
        strategy_reason=reason,
        num_workers=cfg.train.max_workers,
        parameters=parameters,
        trainable_parameters=trainable,
        memory_per_worker=memory,
        memory_per_worker_bytes=memory.total_bytes if memory else None,
        host_memory_per_worker_bytes=_host_bytes(cfg, memory) if memory else None,
        storage=disk,
        data=data,
        tokens_per_optimizer_step=round(data.tokens / data.rows * rows_per_step(cfg)) if data else None,
        optimizer_steps=steps,
        num_trials=num_trials(cfg),
        effort=spent,
        demands=demands(cfg),
        scheduling=verdicts,
        schedulable=_worst(verdicts),
        proposal=proposal,
        notes=tuple(notes),
    )


def plan_table(plan: Plan) -> Table:
    """The plan as a rich table of two columns."""
    from luthier.cluster.planning.plan_view import table

    return table(plan)


def _memory(
    shapes: Shapes,
    parts: Sequence[RunConfig],
    lengths: Sequence[list[RowLength] | None],
    sizes: Sequence[DataSize | None],
) -> MemoryEstimate:
    """The most that any of the trainings needs."""
    estimates = []
    for part, rows, size in zip(parts, lengths, sizes, strict=True):
        steps = optimizer_steps(part, size)
        every = part.train.save_steps or part.train.eval_steps or steps_per_epoch(part, size)
        beside = part.train.async_save and (steps is None or every is None or every < steps)
        batch = largest_micro_batch(part, rows)
        estimates.append(estimate(shapes, part.train, batch, num_steps=steps, saves_beside_steps=beside))
    return max(estimates, key=lambda one: one.total_bytes)


def _host_bytes(cfg: RunConfig, memory: MemoryEstimate) -> int:
    return PROCESS_BYTES + (memory.host_bytes if cfg.train.use_gpu else memory.total_bytes)


def _size(cfg: RunConfig, rows: list[RowLength] | None) -> DataSize | None:
    return size_of(rows, cfg.data.max_train_samples, cfg.train.objective)


def _own(cfg: RunConfig) -> Supply | None:
    """The cluster that a run starts for itself."""
    if cfg.cluster.address is None and not cfg.train.use_gpu:
        node = {"CPU": float(cfg.cluster.num_cpus or os.cpu_count() or 1)}
        return Supply(nodes=(node,), free=(node,), kinds=())
    return None


def _worst(verdicts: Sequence[Verdict]) -> When:
    order: tuple[When, ...] = ("never", "unknown", "after autoscaling", "now")
    return min((one.when for one in verdicts), key=order.index, default="unknown")


def _proposal_notes(proposal: Proposal | None, num_bytes: int | None, source: str) -> list[str]:
    if proposal is not None:
        return []
    if num_bytes is None:
        return [f"no strategy and micro-batch are proposed: {source}."]
    return [f"nothing fits into {num_bytes / GIB:.1f} GiB per worker ({source}): add workers, or take a smaller model."]


def _model_notes(cfg: RunConfig, trainable: int, memory: MemoryEstimate) -> list[str]:
    notes = []
    if trainable == 0:
        notes.append(f"no weight matches train.lora_target_modules={cfg.train.lora_target_modules!r}.")
    if cfg.cluster.address is None and not cfg.train.use_gpu:
        machine = memory_bytes()
        needed = _host_bytes(cfg, memory) * cfg.train.max_workers
        if needed > machine:
            notes.append(
                f"{cfg.train.max_workers} workers need about {needed / GIB:.1f} GiB, this machine has "
                f"{machine / GIB:.1f}; lower train.per_device_train_batch_size or train.num_workers."
            )
    return notes
