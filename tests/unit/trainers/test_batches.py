"""Which rows each worker sees, and how they are padded."""

from __future__ import annotations

import itertools

import pytest
import torch

from luthier.trainers.batches import StepPlan, collate
from luthier.trainers.tokens import IGNORE, Encoded

SHAPES = list(itertools.product([1, 5, 24, 37], [1, 2, 3], [1, 4], [1, 3]))


def epoch(plan: StepPlan, number: int = 0) -> list[list[int]]:
    """Every micro-batch of an epoch over all steps, workers and micro-steps."""
    first = number * plan.steps_per_epoch
    steps = range(first, first + plan.steps_per_epoch)
    return [part for step in steps for rank in range(plan.world_size) for part in plan.micro_batches(step, rank)]


@pytest.mark.parametrize(("num_rows", "world_size", "micro_batch", "accumulation"), SHAPES)
def test_every_row_is_seen_once_an_epoch(num_rows: int, world_size: int, micro_batch: int, accumulation: int) -> None:
    plan = StepPlan(num_rows, world_size, micro_batch, accumulation, seed=3)
    for number in range(2):
        parts = epoch(plan, number)
        assert sorted(itertools.chain(*parts)) == list(range(num_rows))
        assert len(parts) == plan.steps_per_epoch * world_size * accumulation
        assert max(map(len, parts)) <= micro_batch
    last = [len(p) for rank in range(world_size) for p in plan.micro_batches(plan.steps_per_epoch - 1, rank)]
    assert max(last) - min(last) <= 1
    assert sum(last) >= 1


def test_a_short_last_step_is_dealt_out_evenly() -> None:
    plan = StepPlan(num_rows=19, world_size=2, micro_batch=4, accumulation=2, seed=0)
    assert plan.steps_per_epoch == 2
    assert [[len(part) for part in plan.micro_batches(1, rank)] for rank in range(2)] == [[1, 1], [1, 0]]
    fewer = StepPlan(num_rows=18, world_size=2, micro_batch=4, accumulation=2, seed=0)
    assert [[len(part) for part in fewer.micro_batches(1, rank)] for rank in range(2)] == [[1, 0], [1, 0]]


def test_a_step_holds_the_same_rows_for_any_number_of_workers() -> None:
    shapes = [(1, 4, 2), (2, 4, 1), (4, 1, 2), (8, 1, 1)]
    plans = [StepPlan(30, world, micro, accumulation, seed=9) for world, micro, accumulation in shapes]
    for step in range(8):
        seen = [
            sorted(r for k in range(p.world_size) for part in p.micro_batches(step, k) for r in part) for p in plans
        ]
        assert seen == [seen[0]] * len(plans)


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    plan = StepPlan(64, 2, 4, 1, seed=1)
    assert epoch(plan) == epoch(StepPlan(64, 2, 4, 1, seed=1))
    assert epoch(plan) != epoch(plan, 1)
    assert epoch(plan) != epoch(StepPlan(64, 2, 4, 1, seed=2))


def test_rows_of_like_length_are_learnt_together_each_once_an_epoch() -> None:
    lengths_N = torch.randint(5, 200, (1003,), generator=torch.Generator().manual_seed(0))
    plan = StepPlan(1003, 2, 4, 1, seed=5, lengths_N=lengths_N)
    parts = epoch(plan)
    assert sorted(itertools.chain(*parts)) == list(range(1003))
    assert epoch(plan) == epoch(StepPlan(1003, 2, 4, 1, seed=5, lengths_N=lengths_N))
    assert epoch(plan) != epoch(plan, 1)

    def padding(of: list[list[int]]) -> float:
        filled = sum(int(lengths_N[part].sum()) for part in of)
        return 1 - filled / sum(len(part) * int(lengths_N[part].max()) for part in of)

    assert padding(parts) < 0.05
    assert padding(epoch(StepPlan(1003, 2, 4, 1, seed=5))) > 0.2
    first_of_step = [int(lengths_N[part].max()) for part in parts[::2]]
    assert first_of_step != sorted(first_of_step, reverse=True)


def test_rows_are_padded_on_the_left_and_positions_start_at_their_first_token() -> None:
    rows = [Encoded("a", (5, 6, 7, 8), (IGNORE, IGNORE, 7, 8)), Encoded("b", (9, 3), (9, 3))]
    batch = collate(rows, pad_id=0)
    assert batch.row_ids == ("a", "b")
    assert batch.input_ids_BS.tolist() == [[5, 6, 7, 8], [0, 0, 9, 3]]
    assert batch.attention_mask_BS.tolist() == [[1, 1, 1, 1], [0, 0, 1, 1]]
    assert batch.position_ids_BS.tolist() == [[0, 1, 2, 3], [0, 0, 0, 1]]
    # A row's first token has nothing before it; predicting it from padding would be no learning.
    assert batch.labels_BS.tolist() == [[IGNORE, IGNORE, 7, 8], [IGNORE, IGNORE, IGNORE, 3]]
    assert (batch.num_tokens, batch.num_loss_tokens) == (6, 3)
    assert batch.num_loss_tokens == sum(row.num_loss_tokens for row in rows)
    assert batch.to(torch.device("cpu")).labels_BS.tolist() == batch.labels_BS.tolist()


def test_no_rows_give_one_token_without_loss() -> None:
    batch = collate([], pad_id=7)
    assert (batch.input_ids_BS.tolist(), batch.attention_mask_BS.tolist()) == ([[7]], [[1]])
    assert (batch.row_ids, batch.num_loss_tokens) == ((), 0)


@pytest.mark.parametrize(("at_work", "splits"), [(1, 1), (2, 1), (3, 1), (4, 1), (4, 2), (3, 4)])
def test_a_step_sees_the_same_rows_by_fewer_workers_and_in_smaller_micro_batches(at_work: int, splits: int) -> None:
    lengths = torch.arange(50) % 7 + 1
    whole = StepPlan(50, 4, 3, 2, 9, lengths)
    plan = StepPlan(50, 4, 3, 2, 9, lengths, at_work=at_work, splits=splits)
    assert plan.steps_per_epoch == whole.steps_per_epoch
    for step in range(2 * plan.steps_per_epoch):
        parts = [plan.micro_batches(step, rank) for rank in range(at_work)]
        assert {len(part) for part in parts} == {plan.accumulation}  # all take part in each collective operation
        assert max(len(micro) for part in parts for micro in part) <= -(-3 // splits)
        seen = sorted(row for part in parts for micro in part for row in micro)
        assert seen == sorted(row for rank in range(4) for micro in whole.micro_batches(step, rank) for row in micro)
