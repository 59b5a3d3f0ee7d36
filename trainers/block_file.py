"""The file of a tokenised split: written as its rows come, mapped when it is read."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa

from luthier.config.data import DataConfig
from luthier.trainers.accounts import Accountant, SplitAccount
from luthier.trainers.files import Split
from luthier.trainers.partial_file import PartialFile, mapped

_SCHEMA = pa.schema(
    {
        "row_id": pa.string(),
        "dataset": pa.string(),
        "input_ids": pa.list_(pa.int32()),
        "labels": pa.list_(pa.int32()),
    }
)

_ACCOUNT = "account"
"""Key of the account in the metadata of the last record batch."""


class BlockWriter(PartialFile):
    """Writes a split; its file gets its place when it is whole and accepted, or is removed.

    Args:
        path: Its place, in a directory that is there.

    Raises:
        OutputError: The cache can't be written.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, _SCHEMA)
        self._accountant = Accountant()

    def add(self, encoded: pa.Table) -> None:
        """Account for encoded sequences, and write those that carry loss."""
        self.write(self._accountant.add(encoded).select(_SCHEMA.names))

    def finish(self, data: DataConfig, split: Split) -> None:
        """Check what was lost, and put the file in its place.

        Raises:
            DataError: More than the config allows.
        """
        self._accountant.check(data, split)
        self.put({_ACCOUNT: json.dumps(asdict(self._accountant.account()))})


def read_table(path: Path) -> pa.Table:
    """All rows, mapped."""
    return mapped(path).read_all()


def read_account(path: Path) -> SplitAccount:
    """What became of the rows when the file was written."""
    reader = mapped(path)
    _, metadata = reader.get_batch_with_custom_metadata(reader.num_record_batches - 1)
    return SplitAccount(**json.loads(metadata[_ACCOUNT.encode()]))
