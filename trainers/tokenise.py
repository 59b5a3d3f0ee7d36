"""The stage that turns data files into token ids, as a stream: Ray Data reads a piece, tokenises it and lets it go.

No process holds more than a few blocks, whatever the files' size: the reading task stops when its blocks are not taken.
"""

from __future__ import annotations

import json
import logging
import math
import pickle
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import ray.data
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from luthier.config.data import DatasetConfig
from luthier.config.objective import ObjectiveName
from luthier.data_places import located, size_bytes
from luthier.errors import LuthierError
from luthier.rows import Row, row_from_dict
from luthier.trainers.doctor.examine import FINDING, Examiner
from luthier.trainers.doctor.redact import RowRedactor
from luthier.trainers.files import Split, iter_rows, split_path

if TYPE_CHECKING:
    from luthier.trainers.objectives import Objective

ENCODED = pa.schema(
    {
        "split": pa.string(),
        "row_id": pa.string(),
        "dataset": pa.string(),
        "input_ids": pa.list_(pa.int32()),
        "labels": pa.list_(pa.int32()),
        "piece": pa.int32(),  # counted from 0 in each row
        "num_loss_tokens": pa.int32(),
        "num_cut": pa.int32(),
        "why_dropped": pa.string(),  # null: it is kept
        "redacted": pa.list_(pa.string()),  # kinds of personal data taken out of the row; of its first piece
        "finding": FINDING,  # of a row's first piece; null where none was asked for
        "error": pa.binary(),  # null, or why there is no sequence here
    }
)
"""Columns of an encoded sequence.

An error of ours travels as a row in the place of what it was met at. Raised in a process of Ray Data's, it would come back
with text added, after pages of Ray's own; and of several, any first.
"""

_READ = pa.schema({"split": pa.string(), "row": pa.string(), "error": pa.binary()})
"""Columns of a row that was read; it is JSON."""

BYTES_PER_PROCESS = 2_000_000
"""A process is added for as many bytes of data files: some 20,000 short rows. Each first imports transformers, 10 s on a
slow core, in which time another one tokenises some 15,000 of them."""

BLOCK_BYTES = 1 << 20
"""Text that is read, handed over and tokenised at a time. A row is not divided, however long."""

IN_FLIGHT_BYTES = 256 * BLOCK_BYTES
"""Blocks that may wait between the processes; reading is far quicker than tokenising."""


@dataclass(frozen=True)
class Source:
    """One data file.

    Attributes:
        dataset: Names the file.
        split: Which of its files.
        objective: Decides which columns count.
        root: The directory that a relative path is in.
    """

    dataset: DatasetConfig
    split: Split
    objective: ObjectiveName
    root: Path

    @property
    def size_bytes(self) -> int:
        """The file's size."""
        place = split_path(self.dataset, self.split)
        assert place is not None
        return size_bytes(located(place, self.root))


def tokenised(
    sources: Sequence[Source],
    objective: Objective,
    examiner: Examiner | None = None,
    redactor: RowRedactor | None = None,
) -> Iterator[pa.Table]:
    """The encoded sequences of all files, in order, in tables of no more than a few blocks.

    All files go through one stage, because each process of it imports transformers.

    Args:
        sources: The files.
        objective: Encodes a row.
        examiner: Looks at each row beside; None: nobody.
        redactor: Changes each row first; None: nobody.

    Raises:
        DataError: A row can't be used.
    """
    _settle_ray_data()
    num_processes = max(math.ceil(sum(source.size_bytes for source in sources) / BYTES_PER_PROCESS), 1)
    with warnings.catch_warnings():
        # Ray prints an error of its own about actors that may be restarted, and calls the one way to say no old.
        warnings.simplefilter("ignore", DeprecationWarning)
        # Reading takes no CPU of the cluster's count: with one CPU, tokenising would wait for it for ever. Files are read
        # one after another, or the blocks of the later ones would wait for those of the first.
        stage = ray.data.read_datasource(
            Files(sources), num_cpus=0, concurrency=1, override_num_blocks=len(sources)
        ).map_batches(
            Tokenise,
            fn_constructor_args=(objective, examiner, redactor),
            batch_format="pyarrow",
            batch_size=None,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=num_processes),
            max_restarts=0,
        )
    for table in stage.iter_batches(batch_size=None, batch_format="pyarrow"):
        _raise_first(table)
        yield table.cast(ENCODED)


def _settle_ray_data() -> None:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    context.execution_options.resource_limits = ray.data.ExecutionResources.for_limits(
        object_store_memory=IN_FLIGHT_BYTES
    )
    context.target_max_block_size = BLOCK_BYTES
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # it warns that there are no bars


class Files(Datasource):
    """Data files as Ray Data reads them: one task each, on the machine of the process that asks, which has the files.

    Args:
        sources: The files.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        super().__init__()
        self._sources = sources

    @property
    def supports_distributed_reads(self) -> bool:
        """See :class:`ray.data.Datasource`."""
        return False

    def estimate_inmemory_data_size(self) -> int:
        """See :class:`ray.data.Datasource`."""
        return sum(source.size_bytes for source in self._sources)

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        """See :class:`ray.data.Datasource`."""
        del parallelism, per_task_row_limit, data_context
        return [
            ReadTask(
                partial(_row_tables_or_error, source),
                BlockMetadata(num_rows=None, size_bytes=source.size_bytes, exec_stats=None, input_files=None),
            )
            for source in self._sources
        ]


def row_tables(source: Source) -> Iterator[pa.Table]:
    """A file's rows as JSON, in tables of about a block.

    Raises:
        DataError: As :func:`luthier.trainers.files.iter_rows`.
    """
    texts: list[str] = []
    size = 0
    for row in iter_rows(source.dataset, source.split, source.objective, root=source.root):
        texts.append(json.dumps(asdict(row)))
        size += len(texts[-1])
        if size >= BLOCK_BYTES:
            yield row_table(source.split, texts)
            texts, size = [], 0
    if texts:
        yield row_table(source.split, texts)


def row_table(split: Split, texts: Sequence[str]) -> pa.Table:
    """Rows as JSON, as they are handed to :class:`Tokenise`."""
    return pa.Table.from_pydict({"split": [split] * len(texts), "row": texts, "error": [None] * len(texts)}, _READ)


def _row_tables_or_error(source: Source) -> Iterator[pa.Table]:
    try:
        yield from row_tables(source)
    except LuthierError as error:
        yield _table_of(error, _READ)


def _table_of(error: LuthierError, schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist([{"error": pickle.dumps(error)}], schema)


def _raise_first(table: pa.Table) -> None:
    """Raise the first error that a table holds, if there is one."""
    for error in table["error"].drop_null():
        raise pickle.loads(error.as_py())


class Tokenise:
    """Rows as JSON to token ids. One instance per process, one tokenizer each.

    Args:
        objective: Encodes a row.
        examiner: Looks at a row as it was read; None: nobody.
        redactor: Changes a row before it is encoded; None: nobody.
    """

    def __init__(
        self, objective: Objective, examiner: Examiner | None = None, redactor: RowRedactor | None = None
    ) -> None:
        # Its tokenizer is loaded when first used: an error in a constructor could not travel as a row.
        self._objective = objective
        self._examiner = examiner
        self._redactor = redactor

    def __call__(self, batch: pa.Table) -> pa.Table:
        """One table, in the order of its rows; of an error, nothing else."""
        try:
            return self._encode(batch)
        except LuthierError as error:
            return _table_of(error, ENCODED)

    def _encode(self, batch: pa.Table) -> pa.Table:
        _raise_first(batch)
        rows = [row_from_dict(json.loads(text)) for text in batch["row"].to_pylist()]
        made = [self._sequences(split, row) for split, row in zip(batch["split"].to_pylist(), rows, strict=True)]
        if self._examiner:
            # After all are tokenised: turn by turn, each would push the other's tables out of the processor's cache.
            for row, sequences in zip(rows, made, strict=True):
                num_tokens = sum(len(one["input_ids"]) + one["num_cut"] for one in sequences)
                sequences[0]["finding"] = self._examiner(row, num_tokens)
        return pa.Table.from_pylist([one for sequences in made for one in sequences], schema=ENCODED)

    def _sequences(self, split: str, row: Row) -> list[dict[str, Any]]:
        """What a row makes, by :data:`ENCODED`, but for what is found in it."""
        changed, kinds = self._redactor(row) if self._redactor else (row, ())
        made: list[dict[str, Any]] = []
        for piece, one in enumerate(self._objective.encode(changed)):
            learnt = one.num_loss_tokens
            made.append(
                {
                    "split": split,
                    "row_id": one.row_id,
                    "dataset": row.dataset,
                    "input_ids": one.input_ids,
                    "labels": one.labels,
                    "piece": piece,
                    "num_loss_tokens": learnt,
                    "num_cut": one.num_cut,
                    "why_dropped": None if learnt else self._objective.why_dropped,
                    "redacted": () if piece else kinds,
                }
            )
        return made
