"""What the stage that tokenises makes of a block of rows, with the real tokenizer and without Ray."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pyarrow.compute as pc
import pytest

from luthier.config.checks import ChecksConfig, RedactionConfig
from luthier.config.data import DataConfig
from luthier.config.objective import ObjectiveName
from luthier.config.train import TrainConfig
from luthier.rows import Message, Row
from luthier.trainers.accounts import Accountant
from luthier.trainers.doctor.examine import Examiner
from luthier.trainers.doctor.redact import RowRedactor
from luthier.trainers.objectives import build_objective
from luthier.trainers.tokenise import ENCODED, Tokenise, row_table

ROWS = [
    Row("t:1", (Message("user", "I am jane@example.com"), Message("assistant", "ok")), dataset="data"),
    Row("t:2", (Message("user", "long " * 80), Message("assistant", "lost")), dataset="data"),
    Row("t:3", (Message("user", "and I?"), Message("assistant", "ok")), dataset="data"),
]
EXAMINER, REDACTOR = Examiner(ChecksConfig()), RowRedactor(RedactionConfig(), b"")


@pytest.fixture
def stage(base_model_dir: Path) -> Tokenise:
    return make(base_model_dir, "sft", REDACTOR)


def make(base_model_dir: Path, name: ObjectiveName, redactor: RowRedactor | None) -> Tokenise:
    objective = build_objective(TrainConfig(objective=name), DataConfig(max_length=64), base_model_dir)
    return Tokenise(objective, EXAMINER, redactor)


def block(rows: list[Row]) -> object:
    return row_table("train", [json.dumps(asdict(row)) for row in rows])


def test_each_row_is_examined_as_it_was_read_and_tokenised_as_it_is_redacted(
    stage: Tokenise, base_model_dir: Path
) -> None:
    told = stage(block(ROWS))
    assert told.schema == ENCODED
    found = told["finding"].to_pylist()
    assert [one["row_id"] for one in found] == ["t:1", "t:2", "t:3"]
    assert [one["kinds"] for one in found] == [2, 0, 0]
    plain = make(base_model_dir, "sft", None)(block(ROWS))
    assert [one["whole"] for one in plain["finding"].to_pylist()] == [one["whole"] for one in found]
    same = [one == other for one, other in zip(told["input_ids"], plain["input_ids"], strict=True)]
    assert same == [False, True, True]
    assert told["redacted"].to_pylist() == [["email"], [], []]


def test_dropped_rows_are_examined_too_with_the_tokens_that_they_lost(stage: Tokenise) -> None:
    told = stage(block(ROWS))
    assert told["why_dropped"].to_pylist()[1] is not None
    assert told["finding"].to_pylist()[1]["num_tokens"] == len(told["input_ids"][1]) + told["num_cut"][1].as_py() > 64


def test_the_account_has_the_rows_that_were_changed(stage: Tokenise) -> None:
    accountant = Accountant()
    accountant.add(stage(block([*ROWS, ROWS[0]])))
    account = accountant.account()
    assert (account.rows, account.kept, account.dropped) == (4, 3, 1)
    assert account.redacted == {"email": 2}


def test_a_divided_text_is_examined_once(base_model_dir: Path) -> None:
    row = Row("t:1", (), text="from 203.0.113.57 " + "word " * 200, dataset="data")
    told = make(base_model_dir, "pretraining", REDACTOR)(block([row]))
    assert told.num_rows > 2
    found = told["finding"].drop_null().to_pylist()
    assert [one["row_id"] for one in found] == ["t:1"]
    assert found[0]["num_tokens"] == pc.sum(pc.list_value_length(told["input_ids"])).as_py()
    assert pc.list_flatten(told["redacted"]).to_pylist() == ["ip"]


def test_nobody_asked_nothing_found(base_model_dir: Path) -> None:
    objective = build_objective(TrainConfig(), DataConfig(), base_model_dir)
    told = Tokenise(objective)(block(ROWS))
    assert told["finding"].null_count == 3
    assert told["redacted"].to_pylist() == [[], [], []]
