"""How many rows a run has learned from: counted out of the plan, so that a restart can't lose the count."""

from __future__ import annotations

from luthier.trainers.packing import Plan


def rows_seen(plan: Plan, num_steps: int, world_size: int) -> int:
    """Rows that the first steps learn from over all workers; one that comes again in a later epoch counts again."""
    places = ((step, rank) for step in range(num_steps) for rank in range(world_size))
    return sum(len(part) for step, rank in places for part in plan.micro_batches(step, rank))
