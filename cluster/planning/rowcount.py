"""How much training data there is, without tokenising all of it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from luthier.cluster.planning.tokenscale import Scale, by_bytes
from luthier.config.data import DatasetConfig
from luthier.config.objective import ObjectiveName

SPECIAL_TOKENS = 2
"""Those that open and close a plain text."""

END_TOKENS = 2
"""Those with which an answer ends: the turn's end and a line's."""


class DataSize(BaseModel):
    """Rows and roughly how many tokens they make."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int
    """Sequences to learn from: pieces of plain text, pairs of preferences."""
    tokens: int
    """Estimated tokens of one epoch."""
    longest_row_tokens: int
    """Estimated tokens of the longest row."""


class RowLength(NamedTuple):
    """Estimated tokens of one sequence.

    Attributes:
        tokens: All of them.
        loss_tokens: Those with loss.
        shared_tokens: With which all rows of its dataset begin.
        dataset: Place of its dataset in the config.
    """

    tokens: int
    loss_tokens: int
    shared_tokens: int
    dataset: int


def row_lengths(
    datasets: Iterable[DatasetConfig],
    *,
    max_length: int,
    objective: ObjectiveName = "sft",
    answers_only: bool = True,
    scale: Callable[[DatasetConfig], Scale] = by_bytes,
) -> list[RowLength] | None:
    """Lengths of the training splits' rows; None where a file can't be read from here.

    Args:
        datasets: The tasks.
        max_length: Longer rows are cut to this many tokens.
        objective: Of plain text, longer rows are divided into several instead; of preferences, a row is two
            conversations, each estimated as long as both answers together would make it.
        answers_only: Whether only answers have loss.
        scale: How bytes become tokens in a dataset.
    """
    lengths: list[RowLength] = []
    for place, dataset in enumerate(datasets):
        try:
            sizes = _row_bytes(Path(dataset.train).expanduser())
        except (OSError, ValueError, csv.Error, ImportError):
            return None
        by = scale(dataset)
        frame, shared = (by.frame_tokens, by.shared_tokens) if objective in ("sft", "dpo") else (SPECIAL_TOKENS, 0)
        whole = [(frame + by.tokens(size), by.tokens(answer) + END_TOKENS) for size, answer in sizes]
        if objective == "pretraining":
            pieces = [min(max_length, left) for one, _ in whole for left in range(one, 0, 1 - max_length)]
            lengths.extend(RowLength(piece, piece, 0, place) for piece in pieces)
            continue
        for one, answer in whole:
            cut = min(max_length, one)
            lengths.append(RowLength(cut, min(cut, answer) if answers_only else cut, min(cut, shared), place))
    return lengths or None


def measure(
    datasets: Iterable[DatasetConfig],
    *,
    max_length: int,
    max_rows: int | None = None,
    objective: ObjectiveName = "sft",
) -> DataSize | None:
    """Size of the training splits, by bytes; None where a file can't be read from here.

    Args:
        datasets: The tasks.
        max_length: See :func:`row_lengths`.
        max_rows: Only this many rows are used; None: all.
        objective: See :func:`row_lengths`.
    """
    return size_of(row_lengths(datasets, max_length=max_length, objective=objective), max_rows, objective)


def size_of(lengths: Sequence[RowLength] | None, max_rows: int | None, objective: ObjectiveName) -> DataSize | None:
    """The size of rows of known lengths."""
    if not lengths:
        return None
    rows = min(len(lengths), max_rows or len(lengths))
    tokens = sum(one.tokens for one in lengths) * rows // len(lengths) * (2 if objective == "dpo" else 1)
    return DataSize(rows=rows, tokens=tokens, longest_row_tokens=max(one.tokens for one in lengths))


def together(sizes: Sequence[DataSize | None]) -> DataSize | None:
    """The size of several trainings' data; None where one of them is not known."""
    known = [size for size in sizes if size is not None]
    if not known or len(known) < len(sizes):
        return None
    return DataSize(
        rows=sum(size.rows for size in known),
        tokens=sum(size.tokens for size in known),
        longest_row_tokens=max(size.longest_row_tokens for size in known),
    )


def _row_bytes(path: Path) -> list[tuple[int, int]]:
    """UTF-8 bytes of the values of every row, and of its answer alone."""
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".ndjson"):
        with path.open("rb") as stream:
            return [_sizes(json.loads(line)) for line in stream if line.strip()]
    if suffix == ".json":
        rows = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(rows, list):
            raise ValueError("not a list")
        return [_sizes(row) for row in rows]
    if suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as text:
            return [_sizes(row) for row in csv.DictReader(text)]
    if suffix == ".parquet":
        import pyarrow.parquet as pq

        file = pq.ParquetFile(path)
        total = sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
        count = int(file.metadata.num_rows)
        return [(total // count, total // count)] * count if count else []
    raise ValueError(suffix)


def _sizes(row: object) -> tuple[int, int]:
    return _value_bytes(row), _value_bytes(_answer(row))


def _answer(row: object) -> object:
    """The part of a row that is learnt; the whole row where its shape is not known."""
    if not isinstance(row, dict):
        return row
    turns = row.get("messages", row.get("conversations"))
    if isinstance(turns, list):
        said = (turn for turn in turns if isinstance(turn, dict))
        return [one for one in said if one.get("role", one.get("from")) in ("assistant", "gpt")]
    columns = ("label", "completion", "output", "chosen", "rejected")
    return [row[name] for name in columns if name in row] or row


def _value_bytes(value: object) -> int:
    """Bytes of all strings in a row, its keys left out."""
    if isinstance(value, dict):
        return sum(map(_value_bytes, value.values()))
    if isinstance(value, list):
        return sum(map(_value_bytes, value))
    return len(str(value).encode())
