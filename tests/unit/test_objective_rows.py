"""Rows by objective: what is read, and how what can't be is refused."""

from __future__ import annotations

from typing import Any

import pytest

from luthier.config.data import DatasetConfig
from luthier.errors import DataError
from luthier.objective_rows import to_row
from luthier.rows import Message, Row, row_from_dict

PLAIN = DatasetConfig(train="t", system="Be brief.")


def read(record: dict[str, Any], objective: Any, *, judged: bool = False) -> Row:
    return to_row(record, PLAIN, "d/t.jsonl:3", "t.jsonl:3", objective, judged=judged)


def test_plain_text_is_read_as_it_stands() -> None:
    assert read({"text": " a\nb ", "label": "x"}, "pretraining") == Row("t.jsonl:3", (), text=" a\nb ")


def test_a_labelled_text_keeps_text_and_label_whatever_else_there_is() -> None:
    row = read({"text": "a", "label": 3, "messages": []}, "classification")
    assert (row.text, row.label) == ("a", "3")


def test_preferences_come_as_strings_or_as_turns() -> None:
    words = read({"prompt": "q", "chosen": "yes", "rejected": "no"}, "dpo")
    asked = (Message("system", "Be brief."), Message("user", "q"))
    assert (words.prompt, words.answer, words.rejected) == (asked, "yes", "no")
    turns = {"prompt": [{"role": "user", "content": "q"}], "chosen": [{"role": "assistant", "content": "yes"}]}
    row = read({**turns, "rejected": [{"role": "assistant", "content": "no"}]}, "dpo")
    assert (row.prompt, row.answer, row.rejected) == (asked[1:], "yes", "no")
    assert read({"text": "q", "label": "yes"}, "dpo", judged=True).rejected is None


def test_a_row_survives_being_sent_to_another_process() -> None:
    from dataclasses import asdict

    row = read({"prompt": "q", "chosen": "yes", "rejected": "no"}, "dpo")
    assert row_from_dict(asdict(row)) == row


@pytest.mark.parametrize(
    ("objective", "record", "message"),
    [
        ("pretraining", {"prompt": "a"}, "columns are prompt; train.objective: pretraining needs text, and text is"),
        ("classification", {"text": "a"}, "needs text, label, and label is missing"),
        ("dpo", {"text": "a", "label": "b"}, "needs prompt, chosen, rejected, and prompt is missing"),
        ("dpo", {"prompt": "q", "chosen": "a", "rejected": "a"}, "chosen and rejected are the same answer"),
        ("dpo", {"prompt": "q", "chosen": "a", "rejected": ""}, "rejected is ''; it must be a string"),
        (
            "dpo",
            {"prompt": "q", "chosen": [], "rejected": "a"},
            "chosen must be a string or a list of one assistant turn",
        ),
        ("dpo", {"prompt": [], "chosen": "a", "rejected": "b"}, "turn 1 is from 'assistant' where 'user' must speak"),
        ("pretraining", {"text": " "}, "text is ' '; it must be a string that is not empty"),
    ],
)
def test_what_can_not_be_used_is_named_with_its_line(objective: Any, record: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as caught:
        read(record, objective)
    assert str(caught.value).startswith("d/t.jsonl:3: ")
    assert message in str(caught.value)
