"""Dataset files to rows, each with its line, each checked."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

from luthier.config.data import DatasetConfig
from luthier.config.objective import ObjectiveName
from luthier.config.run import RunConfig
from luthier.config.sequence import judged_datasets
from luthier.digests import sha256_file
from luthier.errors import DataError
from luthier.manifest import DataFingerprint
from luthier.objective_rows import to_row
from luthier.rows import Row

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def split_path(dataset: DatasetConfig, split: Split) -> Path | None:
    """The split's file, or None where the dataset has none."""
    name: str | None = getattr(dataset, split)
    return None if name is None else Path(name).expanduser()


def read_split(datasets: Sequence[DatasetConfig], split: Split, objective: ObjectiveName = "sft") -> list[Row]:
    """The rows of all datasets that have the split, in order.

    Raises:
        DataError: As :func:`read_rows`.
    """
    return [row for dataset in datasets if split_path(dataset, split) for row in read_rows(dataset, split, objective)]


def read_rows(dataset: DatasetConfig, split: Split, objective: ObjectiveName = "sft") -> list[Row]:
    """All rows of a split, in file order, by the columns that the objective reads.

    Their ids begin with the dataset's name, unless it is the default: datasets are named apart, files need not be.

    Raises:
        DataError: The file is missing, empty, malformed or can't be read; the message names file and line.
    """
    path = split_path(dataset, split)
    if path is None:
        raise DataError(f"dataset {dataset.name!r} has no {split} file; add datasets[].{split}.")
    owner = "" if dataset.name == DatasetConfig.model_fields["name"].default else f"{dataset.name}/"
    with _readable(path, split):
        if not path.is_file():
            raise DataError(f"datasets[].{split}: file {str(path)!r} does not exist; correct the path.")
        rows = [
            replace(
                to_row(
                    record,
                    dataset,
                    f"{path}:{line}",
                    f"{owner}{path.name}:{line}",
                    objective,
                    judged=split == "test",
                ),
                dataset=dataset.name,
            )
            for line, record in _records(path)
        ]
    if not rows:
        raise DataError(f"datasets[].{split}: {str(path)!r} holds no rows; give a file with at least one.")
    return rows


def evaluation_rows(cfg: RunConfig) -> list[Row]:
    """The test rows that an evaluation is on; of several datasets in turn, so that a limit leaves some of each."""
    objective = cfg.train.objective
    columns = [read_rows(dataset, "test", objective) for dataset in judged_datasets(cfg) if dataset.test]
    rows = [row for group in zip_longest(*columns) for row in group if row is not None]
    return rows[: cfg.evaluate.limit]


def classes_of(datasets: Sequence[DatasetConfig]) -> tuple[str, ...]:
    """The classes that a classifier learns to tell apart, in the order of the datasets.

    Each dataset has its ``labels`` in their order, or the labels of its training rows, sorted.

    Raises:
        DataError: A file can't be used, or there is but one class.
    """
    found = tuple(dict.fromkeys(label for one in datasets for label in one.labels or _labels_in(one)))
    if len(found) < 2:
        raise DataError(f"the training rows have only the label {found[0]!r}; a classifier needs two or more.")
    return found


def _labels_in(dataset: DatasetConfig) -> list[str]:
    return sorted({row.label for row in read_rows(dataset, "train", "classification") if row.label is not None})


def fingerprint(dataset: DatasetConfig, split: Split, num_rows: int) -> DataFingerprint:
    """What identifies the split's content."""
    path = split_path(dataset, split)
    if path is None:
        raise DataError(f"dataset {dataset.name!r} has no {split} file.")
    with _readable(path, split):
        return DataFingerprint(path=str(path), rows=num_rows, sha256=sha256_file(path))


@contextmanager
def _readable(path: Path, split: Split) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"datasets[].{split}: file {str(path)!r} can't be read ({error.strerror}); check its permissions."
        ) from error


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    readers = {".jsonl": _jsonl, ".ndjson": _jsonl, ".json": _json, ".csv": _csv, ".parquet": _parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: ending {path.suffix!r} is not known; use {', '.join(sorted(readers))}.")
    for line, record in reader(path):
        if not isinstance(record, dict):
            raise DataError(f"{path}:{line}: holds {type(record).__name__}; each row must be an object.")
        yield line, record


def _jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open("rb") as stream:
        for number, raw in enumerate(stream, start=1):
            if not raw.strip():
                continue
            try:
                yield number, json.loads(raw.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{path}:{number}: byte {error.start + 1} is not UTF-8; save the file as UTF-8."
                ) from error
            except json.JSONDecodeError as error:
                raise DataError(f"{path}:{number}: not valid JSON at column {error.colno}: {error.msg}.") from error


def _json(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start + 1} is not UTF-8; save the file as UTF-8.") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not valid JSON at column {error.colno}: {error.msg}.") from error
    if not isinstance(content, list):
        raise DataError(f"{path}: holds {type(content).__name__}; a .json file must be a list of rows.")
    yield from enumerate(content, start=1)


def _csv(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open("rb") as stream:
        # Decoded line by line, so that a bad byte is found on its own line; spreadsheets put a byte-order mark first.
        reader = csv.DictReader((raw.decode("utf-8-sig") for raw in stream), strict=True)
        try:
            for record in reader:
                if None in record or None in record.values():
                    raise DataError(f"{path}:{reader.line_num}: the number of columns differs from the header's.")
                yield reader.line_num, record
        except csv.Error as error:
            raise DataError(f"{path}:{reader.line_num + 1}: not valid CSV: {error}.") from error
        except UnicodeDecodeError as error:
            line = reader.reader.line_num + 1
            raise DataError(f"{path}:{line}: byte {error.start + 1} is not UTF-8; save the file as UTF-8.") from error


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        batches = pq.ParquetFile(path).iter_batches()
        yield from enumerate((record for batch in batches for record in batch.to_pylist()), start=1)
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: not a valid Parquet file: {error}.") from error
