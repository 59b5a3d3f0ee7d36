"""Data files to records, one at a time, each with its line."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from luthier.errors import DataError

_PARQUET_ROWS = 256
"""Rows of a Parquet file that are held at once. pyarrow's own 65,536 are as much as a file of long documents."""

_PARQUET_BUFFER_BYTES = 1 << 20
"""Of a column. Without it, and with ``pre_buffer``, pyarrow reads a whole row group, which may be all of the file."""


def records(path: Path, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The records of a file, told by its ending, with their lines. All but ``.json`` are read as they are asked for.

    Args:
        path: The file.
        name: What messages call it.

    Raises:
        DataError: The ending is not known, or the content is malformed; the message names the line.
        OSError: The file can't be read.
    """
    readers = {".jsonl": _jsonl, ".ndjson": _jsonl, ".json": _json, ".csv": _csv, ".parquet": _parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{name}: ending {path.suffix!r} is not known; use {', '.join(sorted(readers))}.")
    for line, record in reader(path, name):
        if not isinstance(record, dict):
            raise DataError(f"{name}:{line}: holds {type(record).__name__}; each row must be an object.")
        yield line, record


def _jsonl(path: Path, name: str) -> Iterator[tuple[int, Any]]:
    with path.open("rb") as stream:
        for number, raw in enumerate(stream, start=1):
            if not raw.strip():
                continue
            try:
                yield number, json.loads(raw.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{name}:{number}: byte {error.start + 1} is not UTF-8; save the file as UTF-8."
                ) from error
            except json.JSONDecodeError as error:
                raise DataError(f"{name}:{number}: not valid JSON at column {error.colno}: {error.msg}.") from error


def _json(path: Path, name: str) -> Iterator[tuple[int, Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: byte {error.start + 1} is not UTF-8; save the file as UTF-8.") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{name}:{error.lineno}: not valid JSON at column {error.colno}: {error.msg}.") from error
    if not isinstance(content, list):
        raise DataError(f"{name}: holds {type(content).__name__}; a .json file must be a list of rows.")
    yield from enumerate(content, start=1)


def _csv(path: Path, name: str) -> Iterator[tuple[int, Any]]:
    with path.open("rb") as stream:
        # Decoded line by line, so that a bad byte is found on its own line; spreadsheets put a byte-order mark first.
        reader = csv.DictReader((raw.decode("utf-8-sig") for raw in stream), strict=True)
        try:
            for record in reader:
                if None in record or None in record.values():
                    raise DataError(f"{name}:{reader.line_num}: the number of columns differs from the header's.")
                yield reader.line_num, record
        except csv.Error as error:
            raise DataError(f"{name}:{reader.line_num + 1}: not valid CSV: {error}.") from error
        except UnicodeDecodeError as error:
            line = reader.reader.line_num + 1
            raise DataError(f"{name}:{line}: byte {error.start + 1} is not UTF-8; save the file as UTF-8.") from error


def _parquet(path: Path, name: str) -> Iterator[tuple[int, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, buffer_size=_PARQUET_BUFFER_BYTES, pre_buffer=False) as file:
            batches = file.iter_batches(batch_size=_PARQUET_ROWS)
            yield from enumerate((record for batch in batches for record in batch.to_pylist()), start=1)
    except pa.ArrowInvalid as error:
        raise DataError(f"{name}: not a valid Parquet file: {error}.") from error
