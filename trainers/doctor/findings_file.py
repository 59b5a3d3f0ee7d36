"""The file of a split's findings, beside that of its tokens: a row for each row that was read, kept or not."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc

from luthier.trainers.doctor.examine import FINDING
from luthier.trainers.partial_file import PartialFile


class FindingsWriter:
    """Writes findings as they come.

    Args:
        path: Place of the file, in a directory that is there.

    Raises:
        OutputError: It can't be written.
    """

    def __init__(self, path: Path) -> None:
        self._file = PartialFile(path, pa.schema(list(FINDING)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.__exit__(kind, error, trace)

    def add(self, encoded: pa.Table) -> None:
        """Write what was found in the rows of a table whose columns :data:`luthier.trainers.tokenise.ENCODED` lists."""
        found = encoded.filter(pc.is_valid(encoded["finding"])).select(["finding"])
        self._file.write(found.flatten().rename_columns([field.name for field in FINDING]))

    def finish(self) -> None:
        """Put the file in its place."""
        self._file.put()


def read_findings(path: Path) -> pa.Table:
    """All findings of a split. The file is mapped: of it only what is looked at comes into memory."""
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
