"""Shares of tasks in an epoch."""

from __future__ import annotations

from collections import Counter

import torch

from luthier.trainers.batches import StepPlan
from luthier.trainers.mixture import Mixture
from luthier.trainers.packing import PackedPlan

TASKS = ["large"] * 90 + ["small"] * 10


def test_each_task_has_its_share_of_every_epoch() -> None:
    mixture = Mixture(TASKS, {"large": 1.0, "small": 3.0}, seed=5)
    assert mixture.shares == {"large": 25, "small": 75}
    for number in range(4):
        of_epoch = Counter(TASKS[item] for item in mixture.epoch(number).tolist())
        assert of_epoch == mixture.shares


def test_a_task_with_a_small_share_is_seen_whole_before_a_row_comes_again() -> None:
    mixture = Mixture(TASKS, {"large": 1.0, "small": 1.0}, seed=5)
    seen = torch.cat([mixture.epoch(number) for number in range(9)])  # 9 x 50 of 90, 9 x 50 of 10
    counts = torch.bincount(seen, minlength=100).tolist()
    assert set(counts[:90]) == {5}
    assert set(counts[90:]) == {45}
    first_round = [item for item in seen.tolist() if item < 90][:90]
    assert sorted(first_round) == list(range(90))


def test_shares_are_whole_numbers_that_leave_no_task_out() -> None:
    tasks = ["a"] * 5 + ["b"] * 3 + ["c"] * 3
    shares = Mixture(tasks, {"a": 1000.0, "b": 1.0, "c": 1.0}, seed=0).shares
    assert shares == {"a": 9, "b": 1, "c": 1}
    assert sum(Mixture(tasks, {"a": 1.0, "b": 1.0, "c": 1.0}, seed=0).shares.values()) == 11


def test_the_seed_decides_and_nothing_else() -> None:
    weights = {"large": 1.0, "small": 1.0}
    assert torch.equal(Mixture(TASKS, weights, 3).epoch(2), Mixture(TASKS, weights, 3).epoch(2))
    assert not torch.equal(Mixture(TASKS, weights, 3).epoch(2), Mixture(TASKS, weights, 4).epoch(2))


def test_steps_deal_out_the_epoch_of_the_mixture_alike_for_any_number_of_workers() -> None:
    mixture = Mixture(TASKS, {"large": 1.0, "small": 1.0}, seed=5)
    lengths = torch.arange(100)
    whole = StepPlan(100, 2, 4, 1, 0, lengths, mixture=mixture)
    one = StepPlan(100, 2, 4, 1, 0, lengths, at_work=1, mixture=mixture)
    for step in range(whole.steps_per_epoch, 2 * whole.steps_per_epoch):
        rows = sorted(row for rank in range(2) for part in whole.micro_batches(step, rank) for row in part)
        assert rows == sorted(row for part in one.micro_batches(step, 0) for row in part)
    second = [
        row
        for step in range(whole.steps_per_epoch, 2 * whole.steps_per_epoch)
        for rank in range(2)
        for part in whole.micro_batches(step, rank)
        for row in part
    ]
    assert sorted(second) == sorted(mixture.epoch(1).tolist())


def test_packs_hold_rows_of_one_task_and_shares_count_packs() -> None:
    lengths = [10] * 100
    plan = PackedPlan(lengths, 50, 1, 1, 1, 0, tasks=TASKS, weights={"large": 1.0, "small": 1.0})
    assert all(len({TASKS[row] for row in pack}) == 1 for pack in plan.packs)
    assert sorted(row for pack in plan.packs for row in pack) == list(range(100))
    of_epoch = Counter(TASKS[plan.micro_batches(step, 0)[0][0]] for step in range(plan.steps_per_epoch))
    assert of_epoch == {"large": 10, "small": 10}
