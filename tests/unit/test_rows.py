"""The one shape of a row, and the records that can't take it."""

from __future__ import annotations

from typing import Any

import pytest

from luthier.config.data import DatasetConfig
from luthier.errors import DataError
from luthier.rows import Message, Row, few_shot_messages, to_conversation

PLAIN = DatasetConfig(train="train.jsonl")


def turns(*contents: str, system: str | None = None) -> list[dict[str, str]]:
    spoken = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(contents)]
    return [{"role": "system", "content": system}, *spoken] if system else spoken


def convert(record: dict[str, Any], dataset: DatasetConfig = PLAIN) -> Row:
    return to_conversation(record, dataset, "data/train.jsonl:7", "train.jsonl:7")


def test_text_and_label_become_question_and_answer() -> None:
    dataset = DatasetConfig(train="t", system="Sort.", prompt="Which? {text} {text}", labels=("a", "b"))
    row = convert({"text": "x {text}", "label": "b", "extra": 1}, dataset)
    assert row == Row(
        "train.jsonl:7",
        (Message("system", "Sort."), Message("user", "Which? x {text} x {text}"), Message("assistant", "b")),
        "b",
        text="x {text}",
    )
    assert row.answer == "b"
    assert [message.role for message in row.prompt] == ["system", "user"]


def test_prompt_and_completion_have_no_label() -> None:
    row = convert({"prompt": "q", "completion": "a"})
    assert row.messages == (Message("user", "q"), Message("assistant", "a"))
    assert row.label is None


def test_an_instruction_may_have_an_input() -> None:
    asked = Message("user", "Sum up.\n\nA long text.")
    assert convert({"instruction": "Sum up.", "input": "A long text.", "output": "Text."}).prompt == (asked,)
    for nothing in ({}, {"input": ""}, {"input": None}):
        row = convert({"instruction": "Sum up.", **nothing, "output": "Text."})
        assert row.messages == (Message("user", "Sum up."), Message("assistant", "Text."))


def test_conversations_are_messages_under_other_names() -> None:
    spoken = [("system", "s"), ("human", "q"), ("gpt", "a"), ("user", "q2"), ("assistant", "a2")]
    row = convert({"conversations": [{"from": who, "value": text} for who, text in spoken]})
    assert [message.role for message in row.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert [message.content for message in row.messages] == [text for _, text in spoken]


@pytest.mark.parametrize(("label", "name"), [(0, "0"), (12, "12"), (True, "True"), (False, "False")])
def test_numbered_classes_are_named_by_their_number(label: int, name: str) -> None:
    row = convert({"text": "x", "label": label}, DatasetConfig(train="t", labels=("0", "12", "True", "False")))
    assert (row.label, row.answer) == (name, name)


def test_messages_are_taken_as_they_are() -> None:
    row = convert({"messages": turns("q", "a", "q2", "a2", system="s")}, DatasetConfig(train="t", system="unused"))
    assert [message.content for message in row.messages] == ["s", "q", "a", "q2", "a2"]
    assert row.messages[0].as_dict() == {"role": "system", "content": "s"}


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({}, "columns are none; a row needs messages"),
        ({"text": "x", "answer": "y"}, "columns are answer, text; a row needs messages"),
        ({"text": "x", "label": "c"}, "label 'c' is not one of datasets[].labels (a, b)"),
        ({"text": "x", "label": 1}, "label '1' is not one of datasets[].labels (a, b)"),
        ({"text": "x", "label": 1.5}, "label is 1.5; it must be a string"),
        ({"text": "x \ud83d", "label": "a"}, "text holds the lone surrogate \\ud83d at character 3; write the whole"),
        ({"messages": turns("q", "\udc00")}, "turn 2 (assistant) holds the lone surrogate \\udc00 at character 1"),
        (
            {"conversations": [{"from": "bot", "value": "x"}]},
            "turn 1 has role 'bot'; roles are system, user, assistant",
        ),
        ({"conversations": [{"from": "human"}]}, "turn 1 (user) has no content"),
        ({"conversations": [{"from": ["x"], "value": "x"}]}, "turn 1 has role ['x']"),
        ({"conversations": ["hello"]}, "turn 1 is str; it must be an object with role and content"),
        ({"conversations": None}, "messages must be a list of turns that is not empty"),
        ({"instruction": "", "output": "a"}, "instruction is ''"),
        ({"instruction": "q", "input": 3, "output": "a"}, "input is 3; it must be a string"),
        ({"text": " ", "label": "a"}, "text is ' '; it must be a string that is not empty"),
        ({"text": None, "label": "a"}, "text is None"),
        ({"prompt": "", "completion": "a"}, "prompt is ''"),
        ({"messages": []}, "messages must be a list of turns that is not empty"),
        ({"messages": "hello"}, "messages must be a list of turns"),
        ({"messages": ["hello"]}, "turn 1 is str; it must be an object with role and content"),
        ({"messages": [{"role": "bot", "content": "x"}]}, "turn 1 has role 'bot'; roles are system, user, assistant"),
        ({"messages": turns("q", " ")}, "turn 2 (assistant) has no content"),
        ({"messages": turns("q")}, "no assistant turn at the end"),
        ({"messages": turns("q", "a", "q2")}, "no assistant turn at the end"),
        ({"messages": turns("q", "a")[1:]}, "turn 1 is from 'assistant' where 'user' must speak"),
        ({"messages": [*turns("q"), *turns("q", "a")]}, "turn 2 is from 'user' where 'assistant' must speak"),
        ({"messages": [*turns("q"), *turns("x", system="s")[:1]]}, "turn 2 is from 'system' where 'assistant' must"),
        ({"messages": [{"role": "system", "content": "s"}]}, "no assistant turn at the end"),
    ],
)
def test_a_record_without_a_usable_shape_is_refused_by_its_place(record: dict[str, Any], expected: str) -> None:
    with pytest.raises(DataError) as caught:
        convert(record, DatasetConfig(train="t", labels=("a", "b")))
    assert str(caught.value).startswith("data/train.jsonl:7: ")
    assert expected in str(caught.value)


def test_turn_numbers_count_the_system_message() -> None:
    with pytest.raises(DataError, match="turn 2 is from 'assistant' where 'user' must speak"):
        convert({"messages": [{"role": "system", "content": "s"}, *turns("q", "a")[1:]]})


def test_shots_stand_between_the_system_message_and_the_question() -> None:
    dataset = DatasetConfig(train="t", system="s")
    asked, first, second = (convert({"prompt": f"q{n}", "completion": f"a{n}"}, dataset) for n in range(3))
    said = [(message.role, message.content) for message in few_shot_messages(asked, [first, second])]
    assert said == [
        ("system", "s"),
        ("user", "q1"),
        ("assistant", "a1"),
        ("user", "q2"),
        ("assistant", "a2"),
        ("user", "q0"),
    ]
    assert few_shot_messages(asked, []) == asked.prompt
