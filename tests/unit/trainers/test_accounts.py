"""The account of a split, held against rows that were counted by hand."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from luthier.config.data import DataConfig
from luthier.errors import DataError
from luthier.trainers.accounts import Accountant, SplitAccount
from luthier.trainers.tokenise import ENCODED

SHORT = "no answer token within data.max_length"


def piece(row_id: str, tokens: int, *, number: int = 0, cut: int = 0, why: str | None = None, of: str = "a") -> Any:
    values = ("train", row_id, of, [1] * tokens, [1] * tokens, number, 0 if why else tokens - 1, cut, why)
    return dict(zip(ENCODED.names, (*values, None, None, None), strict=True))


ROWS = [
    piece("r1", 4),
    piece("r2", 8, cut=3),
    piece("r3", 8, cut=5, why=SHORT),
    piece("r4#1", 8, of="b"),
    piece("r4#2", 3, number=1, of="b"),
    piece("r5", 1, why="another reason", of="b"),
    piece("r6", 2, of="b"),
]


def counted(parts: list[list[Any]]) -> Accountant:
    accountant = Accountant()
    for part in parts:
        accountant.add(pa.Table.from_pylist(part, schema=ENCODED))
    return accountant


@pytest.mark.parametrize("size", [1, 2, 5, 7])  # 5 takes a divided row apart
def test_every_row_is_kept_or_dropped_for_a_reason_however_the_stream_is_divided(size: int) -> None:
    account = counted([ROWS[start : start + size] for start in range(0, len(ROWS), size)]).account()
    assert account == SplitAccount(
        rows=6,
        kept=4,
        truncated=2,
        dropped=2,
        tokens=25,
        loss_tokens=20,
        longest=8,
        divided=1,
        pieces=2,
        cut_tokens=8,
        reasons={SHORT: 1, "another reason": 1},
        datasets={"a": 3, "b": 3},
    )
    assert account.rows == account.kept + account.dropped == sum(account.datasets.values())
    assert account.dropped == sum(account.reasons.values())
    assert account.sequences == 5


def test_what_carries_loss_is_handed_on() -> None:
    kept = Accountant().add(pa.Table.from_pylist(ROWS, schema=ENCODED))
    assert kept["row_id"].to_pylist() == ["r1", "r2", "r4#1", "r4#2", "r6"]


def test_the_limits_of_the_split_are_named_and_a_sample_leaves_rows_out() -> None:
    account = counted([ROWS]).account()
    data = DataConfig(max_length=8, max_train_samples=2, max_eval_samples=9)
    train, validation, test = (account.under(data, split) for split in ("train", "validation", "test"))
    assert train.limits == {"data.max_length": 8, "data.max_dropped_fraction": 0.01, "data.max_train_samples": 2}
    assert list(validation.limits)[-1] == "data.max_eval_samples"
    assert list(test.limits) == ["data.max_length", "data.max_dropped_fraction"]
    assert (train.not_drawn, validation.not_drawn, test.not_drawn) == (3, 0, 0)


def test_more_loss_than_is_allowed_is_refused_at_the_first_row_though_it_came_in_an_earlier_table() -> None:
    accountant = counted([ROWS[:4], ROWS[4:]])
    with pytest.raises(DataError, match=r"2 of 6 rows have no token .* the first at r3; .*fraction=0\.3"):
        accountant.check(DataConfig(max_length=8, max_dropped_fraction=0.3), "train")
    with pytest.raises(DataError, match=r"2 rows are longer .* the first at r2"):
        accountant.check(DataConfig(max_length=8, truncation=False), "train")
    accountant.check(DataConfig(max_length=8, max_dropped_fraction=0.34), "train")
