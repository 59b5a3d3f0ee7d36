"""Tokenised rows as a view of their table."""

from __future__ import annotations

import pyarrow as pa

from luthier.trainers.blocks import Rows

LENGTHS = [3, 9, 1, 4, 7, 5]


def rows() -> Rows:
    table = pa.table(
        {
            "row_id": [f"r{number}" for number in range(len(LENGTHS))],
            "input_ids": [list(range(length)) for length in LENGTHS],
            "labels": [list(range(length)) for length in LENGTHS],
        }
    )
    return Rows(table, range(len(LENGTHS)))


def test_a_sample_keeps_the_order_and_depends_on_the_seed() -> None:
    sampled = rows().sample(4, seed=1)
    ids = [row.row_id for row in sampled]
    assert len(sampled) == len(set(ids)) == 4
    assert ids == sorted(ids)
    assert ids == [row.row_id for row in rows().sample(4, seed=1)]
    assert any(ids != [row.row_id for row in rows().sample(4, seed=seed)] for seed in range(2, 6))
    assert len(rows().sample(None, seed=1)) == len(rows().sample(99, seed=1)) == len(LENGTHS)


def test_lengths_are_those_of_the_rows_that_are_seen() -> None:
    assert rows().lengths() == LENGTHS
    assert rows()[2:5].lengths() == LENGTHS[2:5]
    longest_first = rows().by_length()
    assert longest_first.lengths() == sorted(LENGTHS, reverse=True)
    assert [len(row.input_ids) for row in longest_first] == longest_first.lengths()
    sampled = rows().sample(3, seed=0)
    assert sampled.lengths() == [len(row.input_ids) for row in sampled]
