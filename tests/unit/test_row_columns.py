"""Columns under other names, and the names of formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from luthier.config.data import DatasetConfig
from luthier.errors import DataError
from luthier.row_columns import renamed
from luthier.row_formats import format_of
from luthier.trainers.files import read_rows

pytestmark = pytest.mark.unit


def test_columns_are_read_under_the_files_own_names(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    row = {"body": {"en": "hello"}, "category": "a", "messages": "of another use"}
    path.write_text(json.dumps(row))
    dataset = DatasetConfig(train=str(path), columns={"text": "body.en", "label": "category"})
    assert [(row.text, row.label) for row in read_rows(dataset, "train")] == [("hello", "a")]


def test_columns_that_are_not_renamed_stay_unless_they_are_of_another_format() -> None:
    record = {"prompt": "p", "answer": "c", "text": "t", "note": 1, "a.b": 2}
    named = renamed(record, {"completion": "answer"}, "d:1")
    assert "text" not in named
    assert (named["prompt"], named["completion"], named["note"]) == ("p", "c", 1)
    assert renamed(record, {"text": "a.b"}, "d:1")["text"] == 2


@pytest.mark.parametrize(
    ("theirs", "expected"),
    [
        ("boddy", "d:1: datasets[].columns.text: the row has no column 'boddy'; did you mean 'body'?"),
        ("body.em", "the row has no column 'body.em'; did you mean 'en'?"),
        ("body.en.x", "'body.en' is str, which has no 'x' in it."),
    ],
)
def test_a_row_without_the_column_is_refused(theirs: str, expected: str) -> None:
    with pytest.raises(DataError) as caught:
        renamed({"body": {"en": "hello"}}, {"text": theirs}, "d:1")
    assert expected in str(caught.value)


def test_a_name_that_is_not_luthiers_is_refused() -> None:
    with pytest.raises(ValidationError, match="did you mean 'label'"):
        DatasetConfig(train="d.jsonl", columns={"lable": "category"})


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"messages": []}, "messages"),
        ({"conversations": []}, "sharegpt"),
        ({"instruction": "", "output": "", "input": ""}, "alpaca"),
        ({"prompt": "", "completion": ""}, "prompt_completion"),
        ({"prompt": "", "chosen": "", "rejected": ""}, "preference"),
        ({"text": ""}, "text"),
        ({"text": "", "label": ""}, "text_label"),
        ({"body": ""}, None),
    ],
)
def test_a_format_is_told_by_its_columns(record: dict[str, Any], expected: str | None) -> None:
    assert format_of(record) == expected
