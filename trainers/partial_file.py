"""Arrow files of the cache: written as their rows come, under a name of their own until they are whole, and mapped."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa

from luthier.errors import OutputError


class PartialFile:
    """Gets its place when it is whole, or is removed.

    Args:
        path: Its place, in a directory that is there.
        schema: Of its rows.

    Raises:
        OutputError: It can't be written.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path = path
        self._schema = schema
        self._half_made = path.with_name(f"{path.name}.{os.getpid()}.partial")
        with _writable(self._half_made):
            self._writer = pa.ipc.new_file(self._half_made, schema)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _writable(self._half_made):
            self._writer.close()
            self._half_made.unlink(missing_ok=True)

    def write(self, table: pa.Table) -> None:
        """Add rows."""
        with _writable(self._half_made):
            self._writer.write_table(table)

    def put(self, metadata: Mapping[str, str] | None = None) -> None:
        """Put the file in its place.

        Args:
            metadata: Goes with the last record batch, which is empty: a schema's would be written first.
        """
        last = pa.RecordBatch.from_pylist([], schema=self._schema)
        with _writable(self._half_made):
            self._writer.write_batch(last, custom_metadata=dict(metadata or {}))
            self._writer.close()
            self._half_made.replace(self._path)


def mapped(path: Path) -> pa.ipc.RecordBatchFileReader:
    """A whole file, to be read. It is mapped: processes of a machine share its pages, and only what is looked at is read."""
    return pa.ipc.open_file(pa.memory_map(str(path)))


@contextmanager
def _writable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"LUTHIER_CACHE: {str(path)!r} can't be written ({error}); make room or set another."
        ) from error
