"""A plan as a table for people."""

from __future__ import annotations

from collections.abc import Iterator

from rich.markup import escape
from rich.table import Table

from luthier.cluster.planning.costs import Range
from luthier.cluster.planning.effort import Effort
from luthier.cluster.planning.memory import MemoryEstimate
from luthier.cluster.planning.plan import Plan
from luthier.cluster.resources import Demand

GIB = 2**30

_NEVER_APART = ("total", "host", "loading")
"""Parts of the estimate that are told by themselves."""


def table(plan: Plan) -> Table:
    """The plan as a rich table of two columns."""
    made = Table(title=f"Plan of {plan.name}", show_header=False)
    made.add_column(style="bold", no_wrap=True)
    made.add_column()
    for lines in (_model_lines(plan), _memory_lines(plan), _work_lines(plan), _cluster_lines(plan)):
        for label, text in lines:
            made.add_row(label, escape(text))
        made.add_section()
    for note in plan.notes:
        made.add_row("note", escape(note))
    return made


def _model_lines(plan: Plan) -> Iterator[tuple[str, str]]:
    yield "method", f"{plan.method}, {plan.strategy}, {plan.num_workers} workers"
    if plan.strategy_reason:
        yield "strategy", f"auto: {plan.strategy}, because {plan.strategy_reason}"
    count = "unknown"
    if plan.parameters is not None and plan.trainable_parameters is not None:
        share = 100 * plan.trainable_parameters / max(plan.parameters, 1)
        count = f"{plan.parameters:,}; {plan.trainable_parameters:,} trained ({share:.2f} %)"
    yield "parameters", count


def _memory_lines(plan: Plan) -> Iterator[tuple[str, str]]:
    yield "memory per worker", _memory_text(plan.memory_per_worker)
    if plan.host_memory_per_worker_bytes is not None:
        size = plan.host_memory_per_worker_bytes
        yield "host RAM", f"{_gib(size)} per worker, its process included; {_gib(size * plan.num_workers)} for all"
    if plan.storage is not None:
        disk = plan.storage
        yield (
            "disk",
            f"{_gib(disk.checkpoints_bytes)} checkpoints, {_gib(disk.artifact_bytes)} artifact, "
            f"{_gib(disk.base_model_bytes)} base model",
        )
    if plan.proposal is not None:
        yield "proposal", f"{' '.join(plan.proposal.overrides)}\n{plan.proposal.reason}"


def _work_lines(plan: Plan) -> Iterator[tuple[str, str]]:
    rows = "unknown" if plan.data is None else f"{plan.data.rows:,} (~{plan.data.tokens:,} tokens)"
    yield "training rows", rows
    steps = "unknown" if plan.optimizer_steps is None else f"{plan.optimizer_steps:,}"
    per_step = plan.tokens_per_optimizer_step
    yield "optimizer steps", steps + (f" of ~{per_step:,} tokens" if per_step is not None else "")
    yield "sweep", f"{plan.num_trials} trials" if plan.num_trials else "none"
    if plan.effort is not None:
        yield from _effort_lines(plan.effort)


def _effort_lines(effort: Effort) -> Iterator[tuple[str, str]]:
    trials = f" and {effort.trial_tokens:,} by trials" if effort.trial_tokens else ""
    yield "tokens learned", f"~{effort.tokens:,}{trials}"
    yield "operations", f"{effort.flops:.1e} FLOP"
    yield "hours", _hours_text(effort.hours, f"on {effort.num_devices:g} {effort.device or 'devices'}")
    if effort.cost is not None:
        low, high = f"{effort.cost.low:,g}", f"{effort.cost.high:,g}"
        price = "example prices" if effort.prices_as_of else "prices"
        yield "cost", f"{low} to {high} {effort.currency} ({price} of {effort.prices_as_of})"


def _cluster_lines(plan: Plan) -> Iterator[tuple[str, str]]:
    for demand in plan.demands:
        yield demand.stage, _demand_text(demand)
    if not plan.scheduling:
        yield "schedulable", "unknown: ask the cluster with --address, or give --cluster-config"
    for verdict in plan.scheduling:
        yield f"schedulable: {verdict.stage}", f"{verdict.when}: {verdict.reason}"


def _demand_text(demand: Demand) -> str:
    one = ", ".join(f"{amount:g} {key}" for key, amount in demand.bundle.items())
    return f"{demand.num_bundles} x {one}"


def _memory_text(memory: MemoryEstimate | None) -> str:
    if memory is None:
        return "unknown"
    sizes = {name.removesuffix("_bytes"): size for name, size in memory if isinstance(size, int) and size}
    parts = ", ".join(f"{name} {size / GIB:.2f}" for name, size in sizes.items() if name not in _NEVER_APART)
    return f"{_gib(memory.total_bytes)} at its peak, in {memory.peak_in}\n({parts})"


def _hours_text(hours: Range | None, where: str) -> str:
    if hours is None:
        return f"unknown {where}"
    if hours.high < 1:
        return f"{60 * hours.low:.2g} to {60 * hours.high:.2g} minutes {where}"
    return f"{hours.low:,g} to {hours.high:,g} {where}"


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB"
