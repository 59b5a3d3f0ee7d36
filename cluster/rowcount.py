"""How much training data there is, without tokenising it."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from luthier.config.data import DatasetConfig
from luthier.config.objective import ObjectiveName

# Bytes of UTF-8 per token: English prose under a 50k byte-pair vocabulary lies around 4; rows with names,
# code or other languages lie lower, and too many tokens is the safer error in a plan.
BYTES_PER_TOKEN = 3.5

# Tokens that a chat template adds to a conversation of two or three messages.
TEMPLATE_TOKENS = 24

# Those that open and close a plain text.
SPECIAL_TOKENS = 2


class DataSize(BaseModel):
    """Rows and roughly how many tokens they make."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int
    """Sequences to learn from: pieces of plain text, pairs of preferences."""
    tokens: int
    """Estimated tokens of one epoch."""
    longest_row_tokens: int
    """Estimated tokens of the longest row."""


def measure(
    datasets: Iterable[DatasetConfig],
    *,
    max_length: int,
    max_rows: int | None = None,
    objective: ObjectiveName = "sft",
) -> DataSize | None:
    """Size of the training splits; None where a file can't be read from here.

    Args:
        datasets: The tasks.
        max_length: Longer rows are cut to this many tokens.
        max_rows: Only this many rows are used; None: all.
        objective: Of plain text, longer rows are divided into several instead; of preferences, a row is two
            conversations, each estimated as long as both answers together would make it.
    """
    template = TEMPLATE_TOKENS if objective in ("sft", "dpo") else SPECIAL_TOKENS
    lengths: list[int] = []
    for dataset in datasets:
        frame_bytes = len((dataset.system or "").encode()) + len(dataset.prompt.replace("{text}", "").encode())
        try:
            sizes = _row_bytes(Path(dataset.train).expanduser())
        except (OSError, ValueError, csv.Error, ImportError):
            return None
        whole = [template + round((frame_bytes + size) / BYTES_PER_TOKEN) for size in sizes]
        if objective == "pretraining":
            lengths.extend(min(max_length, left) for one in whole for left in range(one, 0, 1 - max_length))
        else:
            lengths.extend(min(max_length, one) for one in whole)
    if not lengths:
        return None
    rows = min(len(lengths), max_rows or len(lengths))
    tokens = sum(lengths) * rows // len(lengths) * (2 if objective == "dpo" else 1)
    return DataSize(rows=rows, tokens=tokens, longest_row_tokens=max(lengths))


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


def _row_bytes(path: Path) -> list[int]:
    """UTF-8 bytes of the values of every row."""
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".ndjson"):
        with path.open("rb") as stream:
            return [_value_bytes(json.loads(line)) for line in stream if line.strip()]
    if suffix == ".json":
        rows = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(rows, list):
            raise ValueError("not a list")
        return [_value_bytes(row) for row in rows]
    if suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as text:
            return [_value_bytes(row) for row in csv.DictReader(text)]
    if suffix == ".parquet":
        import pyarrow.parquet as pq

        file = pq.ParquetFile(path)
        total = sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
        count = int(file.metadata.num_rows)
        return [total // count] * count if count else []
    raise ValueError(suffix)


def _value_bytes(value: object) -> int:
    """Bytes of all strings in a row, its keys left out."""
    if isinstance(value, dict):
        return sum(map(_value_bytes, value.values()))
    if isinstance(value, list):
        return sum(map(_value_bytes, value))
    return len(str(value).encode())
