"""Source records to rows, by the columns that the run's objective reads.

``sft`` reads conversations (:mod:`luthier.rows`); ``pretraining`` plain text; ``classification`` text with a label;
``dpo`` a prompt with a chosen and a rejected answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from luthier.config.data import DatasetConfig
from luthier.config.objective import ObjectiveName
from luthier.errors import DataError
from luthier.rows import Message, Row, messages_of, text_of, to_conversation, turns_of

_COLUMNS = {
    "pretraining": ("text",),
    "classification": ("text", "label"),
    "dpo": ("prompt", "chosen", "rejected"),
}


def to_row(
    record: Mapping[str, Any],
    dataset: DatasetConfig,
    where: str,
    row_id: str,
    objective: ObjectiveName = "sft",
    *,
    judged: bool = False,
) -> Row:
    """Turn one source record into a :class:`Row`.

    Args:
        record: The parsed record.
        dataset: Supplies the prompt template, system message and label set.
        where: ``file:line``, for messages.
        row_id: The id that the row keeps.
        objective: Decides which columns count.
        judged: Whether the row is only asked and compared (the test split). Of a dpo run such a row needs no rejected
            answer, so it may have any shape of a conversation.

    Raises:
        DataError: The record lacks a column, or one holds what it must not.
    """
    if objective == "sft" or (objective == "dpo" and judged and "chosen" not in record):
        return to_conversation(record, dataset, where, row_id)
    missing = [name for name in _COLUMNS[objective] if name not in record]
    if missing:
        keys = ", ".join(sorted(map(str, record))) or "none"
        raise DataError(
            f"{where}: columns are {keys}; train.objective: {objective} needs {', '.join(_COLUMNS[objective])}, and "
            f"{missing[0]} is missing."
        )
    return _READERS[objective](record, dataset, where, row_id)


def _document(record: Mapping[str, Any], dataset: DatasetConfig, where: str, row_id: str) -> Row:
    del dataset
    return Row(row_id, (), text=text_of(record, "text", where))


def _labelled(record: Mapping[str, Any], dataset: DatasetConfig, where: str, row_id: str) -> Row:
    return to_conversation({name: record[name] for name in ("text", "label")}, dataset, where, row_id)


def _preference(record: Mapping[str, Any], dataset: DatasetConfig, where: str, row_id: str) -> Row:
    """A prompt (a string, or a list of turns that ends with the user's) with two answers to it."""
    chosen, rejected = (_answer(record, key, where) for key in ("chosen", "rejected"))
    if chosen == rejected:
        raise DataError(f"{where}: chosen and rejected are the same answer, so nothing can be preferred; drop the row.")
    prompt = record["prompt"]
    if isinstance(prompt, Sequence) and not isinstance(prompt, str):
        return Row(row_id, messages_of([*prompt, Message("assistant", chosen).as_dict()], where), rejected=rejected)
    return Row(row_id, turns_of(dataset, text_of(record, "prompt", where), chosen), rejected=rejected)


def _answer(record: Mapping[str, Any], key: str, where: str) -> str:
    """An answer: a string, or a list of one assistant turn."""
    value = record[key]
    if not isinstance(value, Sequence) or isinstance(value, str):
        return text_of(record, key, where)
    if len(value) != 1 or not isinstance(value[0], Mapping) or value[0].get("role") != "assistant":
        raise DataError(
            f"{where}: {key} must be a string or a list of one assistant turn; put the turns before it into prompt."
        )
    return text_of(value[0], "content", f"{where}: {key}")


_READERS: dict[str, Callable[[Mapping[str, Any], DatasetConfig, str, str], Row]] = {
    "pretraining": _document,
    "classification": _labelled,
    "dpo": _preference,
}
