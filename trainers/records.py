"""Data files to records, one at a time, each with its line."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from luthier.data_places import arrow_files, is_directory, open_place
from luthier.errors import DataError
from luthier.trainers.compression import COMPRESSIONS, Reader, unpacked
from luthier.trainers.json_list import json_rows
from luthier.trainers.strict_json import StrictJSONError, parse

MAX_ROW_BYTES = 16 << 20
"""Longest line, field of a CSV file or member of a JSON list: some four million tokens, more than any model reads."""

_PARQUET_ROWS = 256
"""Rows of a Parquet file that are held at once. pyarrow's own 65,536 are as much as a file of long documents."""

_PARQUET_BUFFER_BYTES = 1 << 20
"""Of a column. Without it, and with ``pre_buffer``, pyarrow reads a whole row group, which may be all of the file."""


def records(place: str, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The records of a file, told by its ending, with their lines; one at a time.

    Args:
        place: A file's path or URI, or a directory that ``datasets.save_to_disk`` made.
        name: What messages call it.

    Raises:
        DataError: The ending is not known, or the content is malformed; the message names the line.
        OSError: The file can't be read.
    """
    for line, record in _saved(place, name) if is_directory(place) else _of_file(place, name):
        if not isinstance(record, dict):
            raise DataError(f"{name}:{line}: holds {type(record).__name__}; each row must be an object.")
        yield line, record


def _of_file(place: str, name: str) -> Iterator[tuple[int, Any]]:
    readers: dict[str, Reader] = {
        ".jsonl": _jsonl,
        ".ndjson": _jsonl,
        ".json": _json,
        ".csv": _csv,
        ".tsv": partial(_csv, delimiter="\t"),
        ".parquet": _parquet,
    }
    path = Path(place.lower())
    packed = path.suffix if path.suffix in COMPRESSIONS else None
    ending = path.with_suffix("").suffix if packed else path.suffix
    reader = readers.get(ending)
    if reader is None:
        raise DataError(
            f"{name}: ending {ending!r} is not known; use {', '.join(sorted(readers))}, or one with .gz or .zst."
        )
    if packed and reader is _parquet:
        raise DataError(f"{name}: Parquet is read by seeking, which {packed} does not allow; unpack the file.")
    with open_place(place) as stream:
        yield from unpacked(stream, packed, name, reader) if packed else reader(stream, name)


def _lines(stream: BinaryIO, name: str) -> Iterator[tuple[int, bytes]]:
    """The lines with their numbers; one that is too long is refused before it is held."""
    for number, raw in enumerate(iter(partial(stream.readline, MAX_ROW_BYTES + 1), b""), start=1):
        if len(raw) > MAX_ROW_BYTES:
            raise DataError(f"{name}:{number}: the line is longer than {MAX_ROW_BYTES} bytes; split or drop it.")
        yield number, raw


def _jsonl(stream: BinaryIO, name: str) -> Iterator[tuple[int, Any]]:
    for number, raw in _lines(stream, name):
        if not raw.strip():
            continue
        try:
            yield number, parse(raw.decode("utf-8"))
        except StrictJSONError as error:
            raise DataError(f"{name}:{number}: {error}.") from error
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            if _is_cut(raw, error):
                raise DataError(
                    f"{name}:{number}: the file ends in the middle of a record; copy it again or drop the line."
                ) from error
            if isinstance(error, UnicodeDecodeError):
                raise _not_utf8(error, f"{name}:{number}") from error
            raise DataError(f"{name}:{number}: not valid JSON at column {error.colno}: {error.msg}.") from error


def _is_cut(raw: bytes, error: UnicodeDecodeError | json.JSONDecodeError) -> bool:
    """Whether a line that can't be parsed is the file's last, without a line break, and lacks its end."""
    if raw.endswith(b"\n"):
        return False
    if isinstance(error, UnicodeDecodeError):
        return error.reason == "unexpected end of data"
    return error.pos >= len(error.doc) or not raw.rstrip().endswith(b"}")


def _not_utf8(error: UnicodeDecodeError, where: str) -> DataError:
    return DataError(f"{where}: byte {error.start + 1} is not UTF-8; save the file as UTF-8.")


def _json(stream: BinaryIO, name: str) -> Iterator[tuple[int, Any]]:
    yield from json_rows(stream, name, MAX_ROW_BYTES)


def _csv(stream: BinaryIO, name: str, delimiter: str = ",") -> Iterator[tuple[int, Any]]:
    csv.field_size_limit(MAX_ROW_BYTES)  # csv's own 131,072 are less than a long document
    # Decoded line by line, so that a bad byte is found on its own line; spreadsheets put a byte-order mark first.
    reader = csv.DictReader(
        (raw.decode("utf-8-sig") for _, raw in _lines(stream, name)), strict=True, delimiter=delimiter
    )
    try:
        _refuse_repeated(list(reader.fieldnames or ()), f"{name}:{reader.line_num}")
        for record in reader:
            if None in record or None in record.values():
                raise DataError(f"{name}:{reader.line_num}: the number of columns differs from the header's.")
            yield reader.line_num, record
    except csv.Error as error:
        raise DataError(f"{name}:{reader.line_num + 1}: not valid CSV: {error}.") from error
    except UnicodeDecodeError as error:
        raise _not_utf8(error, f"{name}:{reader.reader.line_num + 1}") from error


def _refuse_repeated(columns: list[str], where: str) -> None:
    repeated = next((column for column in columns if columns.count(column) > 1), None)
    if repeated is not None:
        raise DataError(f"{where}: column {repeated[:80]!r} is there twice; rename or drop one.")


def _parquet(stream: BinaryIO, name: str) -> Iterator[tuple[int, Any]]:
    import pyarrow.parquet as pq

    with (
        _arrow_errors(name, "Parquet"),
        pq.ParquetFile(stream, buffer_size=_PARQUET_BUFFER_BYTES, pre_buffer=False) as file,
    ):
        _refuse_repeated(file.schema_arrow.names, name)
        batches = file.iter_batches(batch_size=_PARQUET_ROWS)
        yield from enumerate((record for batch in batches for record in batch.to_pylist()), start=1)


def _saved(place: str, name: str) -> Iterator[tuple[int, Any]]:
    """The rows of a directory that ``datasets.save_to_disk`` made, counted over its files."""
    yield from enumerate((record for one in arrow_files(place) for record in _arrow(one, name)), start=1)


def _arrow(place: str, name: str) -> Iterator[Any]:
    import pyarrow as pa

    with open_place(place) as stream, _arrow_errors(f"{name}/{Path(place).name}", "Arrow"):
        reader = pa.ipc.open_stream(stream)
        _refuse_repeated(reader.schema.names, name)
        for batch in reader:
            batch.validate(full=True)  # a damaged offset would be read behind the buffer, which ends the process
            for start in range(0, batch.num_rows, _PARQUET_ROWS):
                yield from batch.slice(start, _PARQUET_ROWS).to_pylist()


@contextmanager
def _arrow_errors(name: str, kind: str) -> Iterator[None]:
    """pyarrow's errors of damaged content: those of a footer or page are OSErrors without a number."""
    import pyarrow as pa

    try:
        yield
    except DataError:
        raise
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")[:200]
        raise DataError(f"{name}: not a valid {kind} file: {reason}.") from error
