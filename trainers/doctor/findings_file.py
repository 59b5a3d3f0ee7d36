"""The file of a split's findings, beside that of its tokens: a row for each row that was read, kept or not."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from luthier.trainers.doctor.examine import FINDING
from luthier.trainers.partial_file import PartialFile, mapped


class FindingsWriter(PartialFile):
    """Writes findings as they come.

    Args:
        path: Place of the file, in a directory that is there.

    Raises:
        OutputError: It can't be written.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, pa.schema(list(FINDING)))

    def add(self, encoded: pa.Table) -> None:
        """Write what was found in the rows of a table whose columns :data:`luthier.trainers.tokenise.ENCODED` lists."""
        found = encoded.filter(pc.is_valid(encoded["finding"])).select(["finding"])
        self.write(found.flatten().rename_columns([field.name for field in FINDING]))


def read_findings(path: Path) -> pa.Table:
    """All findings of a split, mapped."""
    return mapped(path).read_all()
