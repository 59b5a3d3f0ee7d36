"""What a run will need, from its config alone: no weight is loaded, no Ray is started."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from luthier.cluster.choosing import choose
from luthier.cluster.memory import MemoryEstimate, estimate, num_parameters, num_trainable
from luthier.cluster.resources import Demand, demands, shortages
from luthier.cluster.rowcount import DataSize, measure, together
from luthier.cluster.shapes import weight_shapes
from luthier.config import RunConfig, config_hash
from luthier.config.sequence import trainings
from luthier.errors import ModelError

if TYPE_CHECKING:
    from rich.table import Table

GIB = 2**30


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
    data: DataSize | None
    tokens_per_optimizer_step: int | None
    optimizer_steps: int | None
    num_trials: int
    demands: tuple[Demand, ...]
    cluster_resources: dict[str, float] | None
    schedulable: bool | None
    """Whether the cluster can hold every stage; None: the cluster was not asked."""
    notes: tuple[str, ...]


def plan(cfg: RunConfig, *, cluster_resources: Mapping[str, float] | None = None) -> Plan:
    """Work out what a run needs.

    Args:
        cfg: The run's config.
        cluster_resources: What the target cluster has, as ``ray.cluster_resources()`` gives it. None: for a
            run that starts its own cluster, this machine's CPUs; for a named cluster, unknown.

    Returns:
        The plan. Nothing is started or written, and a shortage is reported, not raised.
    """
    notes: list[str] = []
    have = _resources(cfg, cluster_resources)
    reason = None
    given_hash = config_hash(cfg)
    if cfg.train.strategy == "auto":
        choice = choose(cfg, have)
        cfg, reason = choice.settled(cfg), choice.reason
    parts = trainings(cfg)
    sizes = [_size(part) for part in parts]
    data = together(sizes)
    if data is None:
        notes.append("the training files can't be read from here, so tokens and steps are unknown.")
    parameters = trainable = memory = None
    try:
        shapes = weight_shapes(cfg.model, offline=cfg.offline)
        parameters, trainable = num_parameters(shapes), num_trainable(shapes, cfg.train)
        sequence_tokens = data.longest_row_tokens if data else cfg.data.max_length
        memory = estimate(shapes, cfg.train, sequence_tokens=sequence_tokens)
        notes.extend(_model_notes(cfg, trainable, memory))
    except ModelError as error:
        notes.append(str(error))
    missing = () if have is None else shortages(cfg, have)
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
        data=data,
        tokens_per_optimizer_step=round(data.tokens / data.rows * rows_per_step(cfg)) if data else None,
        optimizer_steps=_all_steps(parts, sizes),
        num_trials=_num_trials(cfg),
        demands=demands(cfg),
        cluster_resources=have,
        schedulable=None if have is None else not missing,
        notes=(*notes, *missing),
    )


def _size(cfg: RunConfig) -> DataSize | None:
    """What one training reads."""
    return measure(
        cfg.datasets,
        max_length=cfg.data.max_length,
        max_rows=cfg.data.max_train_samples,
        objective=cfg.train.objective,
    )


def _all_steps(parts: Sequence[RunConfig], sizes: Sequence[DataSize | None]) -> int | None:
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
    limit = cfg.train.max_steps
    if data is None:
        return limit
    steps = math.ceil(data.rows / rows_per_step(cfg)) * cfg.train.num_train_epochs
    return steps if limit is None else min(steps, limit)


def plan_table(plan: Plan) -> Table:
    """The plan as a rich table of two columns."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"Plan of {plan.name}", show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for label, text in _lines(plan):
        table.add_row(label, escape(text))
    for note in plan.notes:
        table.add_row("note", escape(note))
    return table


def _lines(plan: Plan) -> list[tuple[str, str]]:
    count = "unknown"
    if plan.parameters is not None and plan.trainable_parameters is not None:
        share = 100 * plan.trainable_parameters / max(plan.parameters, 1)
        count = f"{plan.parameters:,}; {plan.trainable_parameters:,} trained ({share:.2f} %)"
    lines = [
        ("method", f"{plan.method}, {plan.strategy}, {plan.num_workers} workers"),
        *([("strategy", f"auto: {plan.strategy}, because {plan.strategy_reason}")] if plan.strategy_reason else []),
        ("parameters", count),
        ("memory per worker", _memory_text(plan.memory_per_worker)),
        (
            "training rows",
            "unknown" if plan.data is None else f"{plan.data.rows:,} (~{plan.data.tokens:,} tokens)",
        ),
        ("optimizer steps", "unknown" if plan.optimizer_steps is None else f"{plan.optimizer_steps:,}"),
        ("sweep", f"{plan.num_trials} trials" if plan.num_trials else "none"),
    ]
    lines += [(d.stage, ", ".join(f"{amount:g} {key}" for key, amount in d.resources.items())) for d in plan.demands]
    verdict = {None: "unknown: ask the cluster", True: "yes", False: "no"}[plan.schedulable]
    return [*lines, ("schedulable", verdict)]


def _memory_text(memory: MemoryEstimate | None) -> str:
    if memory is None:
        return "unknown"
    sizes = {name.removesuffix("_bytes"): size for name, size in memory.model_dump().items() if size}
    parts = ", ".join(f"{name} {size / GIB:.2f}" for name, size in sizes.items())
    return f"{memory.total_bytes / GIB:.2f} GiB ({parts})"


def _num_trials(cfg: RunConfig) -> int:
    if cfg.tune is None:
        return 0
    grids = (len(domain.values) for domain in cfg.tune.search_space.values() if domain.type == "grid")
    return cfg.tune.num_samples * math.prod(grids)


def _resources(cfg: RunConfig, cluster_resources: Mapping[str, float] | None) -> dict[str, float] | None:
    if cluster_resources is not None:
        return dict(cluster_resources)
    if cfg.cluster.address is None and not cfg.train.use_gpu:
        return {"CPU": float(cfg.cluster.num_cpus or os.cpu_count() or 1)}
    return None


def _model_notes(cfg: RunConfig, trainable: int, memory: MemoryEstimate) -> list[str]:
    notes = []
    if trainable == 0:
        notes.append(f"no weight matches train.lora_target_modules={cfg.train.lora_target_modules!r}.")
    if cfg.model.attn_implementation == "eager":
        notes.append("eager attention also keeps its score matrices, which the estimate leaves out.")
    if cfg.cluster.address is None and not cfg.train.use_gpu:
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        needed = memory.total_bytes * cfg.train.max_workers
        if needed > machine:
            notes.append(
                f"{cfg.train.max_workers} workers need about {needed / GIB:.1f} GiB, this machine has "
                f"{machine / GIB:.1f}; lower train.per_device_train_batch_size or train.num_workers."
            )
    return notes
