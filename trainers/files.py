"""Dataset files to rows, each with its line, each checked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Literal

from luthier.config.data import DatasetConfig
from luthier.config.objective import ObjectiveName
from luthier.config.run import RunConfig
from luthier.config.sequence import judged_datasets
from luthier.data_places import digest, exists, located
from luthier.errors import DataError
from luthier.objective_rows import to_row
from luthier.row_columns import renamed
from luthier.row_formats import OneFormat
from luthier.rows import Row, kept_fields
from luthier.trainers.records import records

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def split_path(dataset: DatasetConfig, split: Split) -> str | None:
    """The split's file or URI, or None where the dataset has none."""
    name: str | None = getattr(dataset, split)
    return None if name is None else located(name)


def iter_split(datasets: Sequence[DatasetConfig], split: Split, objective: ObjectiveName = "sft") -> Iterator[Row]:
    """The rows of all datasets that have the split, in order, one at a time.

    Raises:
        DataError: As :func:`iter_rows`.
    """
    for dataset in datasets:
        if split_path(dataset, split):
            yield from iter_rows(dataset, split, objective)


def iter_rows(
    dataset: DatasetConfig,
    split: Split,
    objective: ObjectiveName = "sft",
    *,
    root: Path = Path(),
    keep: Sequence[str] = (),
) -> Iterator[Row]:
    """The rows of a split, in file order, by the columns that the objective reads; one at a time.

    Their ids begin with the dataset's name, unless it is the default: datasets are named apart, files need not be.

    Args:
        dataset: Names the file.
        split: Which of its files.
        objective: Decides which columns count.
        root: The directory that a relative path is in, for processes that work in another one.
        keep: Columns whose values the rows keep.

    Raises:
        DataError: The file is missing, empty, malformed or can't be read; the message names file and line.
    """
    path = _path_of(dataset, split, root)
    owner = "" if dataset.name == DatasetConfig.model_fields["name"].default else f"{dataset.name}/"
    judged = split == "test"
    empty, file_name = True, Path(path).name
    formats = OneFormat()
    with _readable(path, split):
        for line, raw in records(located(path, root), path):
            empty = False
            record = renamed(raw, dataset.columns, f"{path}:{line}")
            if objective in ("sft", "dpo"):  # the others read the same columns of every row
                formats.check(record, path, line)
            row = to_row(record, dataset, f"{path}:{line}", f"{owner}{file_name}:{line}", objective, judged=judged)
            yield replace(row, dataset=dataset.name, fields=kept_fields(raw, keep, f"{path}:{line}"))
    if empty:
        raise DataError(f"datasets[].{split}: {path!r} holds no rows; give a file with at least one.")


def read_rows(dataset: DatasetConfig, split: Split, objective: ObjectiveName = "sft") -> list[Row]:
    """All rows of a split at once, for those that need them together.

    Raises:
        DataError: As :func:`iter_rows`.
    """
    return list(iter_rows(dataset, split, objective))


def evaluation_rows(cfg: RunConfig) -> list[Row]:
    """The test rows that an evaluation is on; of several datasets in turn, so that a limit leaves some of each."""
    objective = cfg.train.objective
    columns = [
        list(iter_rows(dataset, "test", objective, keep=cfg.evaluate.slices))
        for dataset in judged_datasets(cfg)
        if dataset.test
    ]
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
    return sorted({row.label for row in iter_rows(dataset, "train", "classification") if row.label is not None})


def file_digest(dataset: DatasetConfig, split: Split) -> str:
    """SHA-256 of the split's file.

    Raises:
        DataError: The file is missing or can't be read.
    """
    path = _path_of(dataset, split)
    with _readable(path, split):
        return digest(path)


def _path_of(dataset: DatasetConfig, split: Split, root: Path = Path()) -> str:
    """The path of a file that must be there, as the config names it."""
    path = split_path(dataset, split)
    if path is None:
        raise DataError(f"dataset {dataset.name!r} has no {split} file; add datasets[].{split}.")
    with _readable(path, split):
        if exists(located(path, root)):
            return path
    raise DataError(f"datasets[].{split}: file {path!r} does not exist; correct the path.")


@contextmanager
def _readable(path: str, split: Split) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"datasets[].{split}: file {path!r} can't be read ({error.strerror or error}); check its permissions."
        ) from error
