"""The file of a tokenised split: written as its rows come, mapped when it is read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa

from luthier.config.data import DataConfig
from luthier.errors import OutputError
from luthier.trainers.accounts import Accountant, SplitAccount
from luthier.trainers.base_model import subcache
from luthier.trainers.files import Split

_SCHEMA = pa.schema(
    {
        "row_id": pa.string(),
        "dataset": pa.string(),
        "input_ids": pa.list_(pa.int32()),
        "labels": pa.list_(pa.int32()),
    }
)

_ACCOUNT = "account"
"""Key of the account in the metadata of the last record batch, which is empty: a schema's are written first."""


class BlockWriter:
    """Writes a split under a name of its own; it gets its place when it is whole and accepted, or is removed.

    Args:
        path: Its place, in the cache's directory of tokenised splits.

    Raises:
        OutputError: The cache can't be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = subcache("blocks") / path.name
        self._half_made = self._path.with_name(f"{path.name}.{os.getpid()}.partial")
        self._accountant = Accountant()
        with _writable(self._half_made):
            self._writer = pa.ipc.new_file(self._half_made, _SCHEMA)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _writable(self._half_made):
            self._writer.close()
            self._half_made.unlink(missing_ok=True)

    def add(self, encoded: pa.Table) -> None:
        """Account for encoded sequences, and write those that carry loss."""
        kept = self._accountant.add(encoded)
        with _writable(self._half_made):
            self._writer.write_table(kept.select(_SCHEMA.names))

    def finish(self, data: DataConfig, split: Split) -> None:
        """Check what was lost, and put the file in its place.

        Raises:
            DataError: More than the config allows.
        """
        self._accountant.check(data, split)
        last = pa.RecordBatch.from_pylist([], schema=_SCHEMA)
        account = json.dumps(asdict(self._accountant.account()))
        with _writable(self._half_made):
            self._writer.write_batch(last, custom_metadata={_ACCOUNT: account})
            self._writer.close()
            self._half_made.replace(self._path)


def read_table(path: Path) -> pa.Table:
    """All rows. The file is mapped: processes of a machine share its pages."""
    return _open(path).read_all()


def read_account(path: Path) -> SplitAccount:
    """What became of the rows when the file was written."""
    reader = _open(path)
    _, metadata = reader.get_batch_with_custom_metadata(reader.num_record_batches - 1)
    return SplitAccount(**json.loads(metadata[_ACCOUNT.encode()]))


def _open(path: Path) -> pa.ipc.RecordBatchFileReader:
    return pa.ipc.open_file(pa.memory_map(str(path)))


@contextmanager
def _writable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"LUTHIER_CACHE: {str(path)!r} can't be written ({error}); make room or set another."
        ) from error
