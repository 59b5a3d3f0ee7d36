"""The count of rows learned from, held against the plan that it is counted out of."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from luthier.trainers.batches import StepPlan
from luthier.trainers.packing import PackedPlan, Plan
from luthier.trainers.seen import rows_seen


def step_plan(world_size: int) -> Plan:
    return StepPlan(11, 2, 2, 1, seed=0, at_work=world_size)


def packed_plan(world_size: int) -> Plan:
    return PackedPlan([5, 3, 8, 2, 2, 7, 1, 4, 4, 6, 8], 8, 2, 1, 1, seed=0, at_work=world_size)


@pytest.mark.parametrize("make", [step_plan, packed_plan])
def test_an_epoch_sees_every_row_once_and_repeats_count_again(make: Callable[[int], Plan]) -> None:
    plan = make(2)
    assert [rows_seen(plan, epochs * plan.steps_per_epoch, 2) for epochs in range(4)] == [0, 11, 22, 33]
    counts = [rows_seen(plan, step, 2) for step in range(plan.steps_per_epoch + 1)]
    assert counts == sorted(set(counts))


@pytest.mark.parametrize("make", [step_plan, packed_plan])
def test_it_does_not_depend_on_how_many_workers_are_there(make: Callable[[int], Plan]) -> None:
    assert [rows_seen(make(1), step, 1) for step in range(9)] == [rows_seen(make(2), step, 2) for step in range(9)]
