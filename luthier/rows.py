"""The one shape that every dataset row takes before it is rendered: a conversation with an id.

Source rows come as ``messages``, ``conversations`` (``from``, ``value``), ``prompt``/``completion``,
``instruction``/``input``/``output`` or ``text``/``label``; :func:`to_conversation` turns each into messages, and raises
a :class:`DataError` that names file and line where it can't.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from luthier.config.data import DatasetConfig
from luthier.errors import DataError

Role = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant")
_SPEAKERS = {"human": "user", "gpt": "assistant"}
"""ShareGPT's names of the roles, in ``conversations``."""


MAX_FIELD_CHARS = 100
"""Of a column's value that rows are sliced by; longer ones are texts rather than groups."""


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str

    def as_dict(self) -> dict[str, str]:
        """The form that chat templates and the OpenAI API take."""
        return {"role": self.role, "content": self.content}


@dataclass(frozen=True)
class Row:
    """One example.

    Attributes:
        row_id: ``<file name>:<line>``, with the dataset's name before it where it has one; survives to the loss and to
            the report.
        messages: The conversation; its last turn is the assistant's, the answer to learn. Empty for plain text.
        label: The class name for labelled data, else None.
        dataset: Name of the dataset that the row was read from.
        text: The text as it stands in the row, of plain text and of text/label rows; else None.
        rejected: An answer to which the conversation's own is to be preferred; None: there is none.
        fields: Values of those of the record's other columns that were asked for, by name.
    """

    row_id: str
    messages: tuple[Message, ...]
    label: str | None = None
    dataset: str = ""
    text: str | None = None
    rejected: str | None = None
    fields: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def prompt(self) -> tuple[Message, ...]:
        """The conversation without its last answer."""
        return self.messages[:-1]

    @property
    def question(self) -> str:
        """What is asked last; of plain text, the text itself."""
        return self.prompt[-1].content if self.prompt else self.text or ""

    @property
    def answer(self) -> str:
        """The last answer's text; empty for plain text."""
        return self.messages[-1].content if self.messages else ""


def row_from_dict(fields: Mapping[str, Any]) -> Row:
    """Undo :func:`dataclasses.asdict`."""
    return Row(**{**fields, "messages": tuple(Message(**turn) for turn in fields["messages"])})


def to_conversation(record: Mapping[str, Any], dataset: DatasetConfig, where: str, row_id: str) -> Row:
    """Turn one source record into a :class:`Row`.

    Args:
        record: The parsed record.
        dataset: Supplies the prompt template, system message and label set.
        where: ``file:line``, for messages.
        row_id: The id that the row keeps.

    Raises:
        DataError: The record has no known shape, an empty turn, a wrong role order, no answer, or a foreign label.
    """
    if "messages" in record:
        return Row(row_id, messages_of(record["messages"], where))
    if "conversations" in record:
        return Row(row_id, messages_of(_as_messages(record["conversations"]), where))
    if "prompt" in record and "completion" in record:
        return Row(row_id, turns_of(dataset, text_of(record, "prompt", where), text_of(record, "completion", where)))
    if "instruction" in record and "output" in record:
        return Row(row_id, turns_of(dataset, _instruction(record, where), text_of(record, "output", where)))
    if "text" in record and "label" in record:
        label = _label(record, where)
        if dataset.labels is not None and label not in dataset.labels:
            known = ", ".join(dataset.labels)
            raise DataError(
                f"{where}: label {label!r} is not one of datasets[].labels ({known}); correct the row or add it."
            )
        text = text_of(record, "text", where)
        return Row(row_id, turns_of(dataset, dataset.prompt.replace("{text}", text), label), label, text=text)
    keys = ", ".join(sorted(map(str, record))) or "none"
    raise DataError(
        f"{where}: columns are {keys}; a row needs messages, or conversations, or prompt and completion, or instruction "
        "and output, or text and label."
    )


def turns_of(dataset: DatasetConfig, prompt: str, answer: str) -> tuple[Message, ...]:
    """A question and its answer, with the dataset's system message before them."""
    system = (Message("system", dataset.system),) if dataset.system else ()
    return (*system, Message("user", prompt), Message("assistant", answer))


def text_of(record: Mapping[str, Any], key: str, where: str) -> str:
    """A column's text.

    Raises:
        DataError: It is no string, empty, or can't be written as UTF-8.
    """
    value = record[key]
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: {key} is {value!r}; it must be a string that is not empty.")
    return _encodable(value, key, where)


def _label(record: Mapping[str, Any], where: str) -> str:
    """A class name; classes that are numbered, or true and false, are named by that."""
    label = record["label"]
    return str(label) if isinstance(label, int) else text_of(record, "label", where)


def _instruction(record: Mapping[str, Any], where: str) -> str:
    """Alpaca's instruction with its input, if any, below it."""
    instruction = text_of(record, "instruction", where)
    return f"{instruction}\n\n{text_of(record, 'input', where)}" if record.get("input") else instruction


def _encodable(text: str, what: str, where: str) -> str:
    """The text, unless it holds half of a character: JSON can write one (``"\\ud83d"``), UTF-8 can't."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        lone = f"\\u{ord(text[error.start]):04x}"
        raise DataError(
            f"{where}: {what} holds the lone surrogate {lone} at character {error.start + 1}; write the whole character."
        ) from error
    return text


def _as_messages(conversations: object) -> object:
    """ShareGPT's ``from`` and ``value`` under the names of ``messages``; what has another shape is left to be refused."""
    if not isinstance(conversations, Sequence) or isinstance(conversations, str):
        return conversations
    return [_as_turn(turn) if isinstance(turn, Mapping) else turn for turn in conversations]


def _as_turn(turn: Mapping[str, object]) -> dict[str, object]:
    speaker = turn.get("from")
    return {
        "role": _SPEAKERS.get(speaker, speaker) if isinstance(speaker, str) else speaker,
        "content": turn.get("value"),
    }


def messages_of(raw: object, where: str) -> tuple[Message, ...]:
    """A list of turns that ends with the assistant's.

    Raises:
        DataError: A turn is malformed, or speakers do not alternate.
    """
    if not isinstance(raw, Sequence) or isinstance(raw, str) or not raw:
        raise DataError(f"{where}: messages must be a list of turns that is not empty.")
    turns = tuple(_message(turn, where, number) for number, turn in enumerate(raw, start=1))
    first = 1 if turns[0].role == "system" else 0
    for index, turn in enumerate(turns[first:], start=first):
        expected = "user" if (index - first) % 2 == 0 else "assistant"
        if turn.role != expected:
            raise DataError(f"{where}: turn {index + 1} is from {turn.role!r} where {expected!r} must speak.")
    if turns[-1].role != "assistant":
        raise DataError(f"{where}: no assistant turn at the end, so there is nothing to learn; add the answer.")
    return turns


def _message(turn: object, where: str, number: int) -> Message:
    if not isinstance(turn, Mapping):
        raise DataError(f"{where}: turn {number} is {type(turn).__name__}; it must be an object with role and content.")
    role, content = turn.get("role"), turn.get("content")
    if role not in ROLES:
        raise DataError(f"{where}: turn {number} has role {role!r}; roles are {', '.join(ROLES)}.")
    if not isinstance(content, str) or not content.strip():
        raise DataError(f"{where}: turn {number} ({role}) has no content.")
    return Message(role, _encodable(content, f"turn {number} ({role})", where))


def kept_fields(record: Mapping[str, Any], names: Sequence[str], where: str) -> dict[str, str]:
    """Values of some columns as text; a record that lacks one has none of it.

    Raises:
        DataError: A value is no short text, number or truth value.
    """
    found = {name: record[name] for name in names if record.get(name) is not None}
    for name, value in found.items():
        if not isinstance(value, str | int | float) or len(str(value)) > MAX_FIELD_CHARS:
            raise DataError(
                f"{where}: column {name!r} holds {type(value).__name__}; to slice by it, it must hold a text of at most "
                f"{MAX_FIELD_CHARS} characters, a number, or true or false."
            )
    return {name: str(value) for name, value in found.items()}


def few_shot_messages(row: Row, examples: Sequence[Row]) -> tuple[Message, ...]:
    """The row's prompt with solved examples before it as earlier turns of the same conversation.

    Args:
        row: The row to answer.
        examples: Solved rows of the training split.

    Returns:
        System message (the row's own, if any), then question and answer of each example, then the row's question.
    """
    system = tuple(m for m in row.prompt if m.role == "system")
    shots = tuple(m for example in examples for m in example.messages if m.role != "system")
    question = tuple(m for m in row.prompt if m.role != "system")
    return (*system, *shots, *question)
