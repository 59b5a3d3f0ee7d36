"""Tokenised splits: made once by Ray Data, kept as Arrow files under the digest of what they came from.

Workers map the finished file instead of streaming from Ray Data while they train, because the training workers reserve
the cluster's CPUs and a read task beside them would wait for ever.
"""

from __future__ import annotations

import json
import logging
import os
import random
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, overload

import pyarrow as pa
import pyarrow.compute as pc

from luthier.config.data import DataConfig, DatasetConfig
from luthier.config.train import TrainConfig
from luthier.digests import sha256_json
from luthier.errors import DataError
from luthier.manifest import DataFingerprint
from luthier.paths import cache_dir
from luthier.rows import Row, row_from_dict
from luthier.trainers.base_model import base_digest, subcache
from luthier.trainers.files import Split, classes_of, fingerprint, read_rows, split_path
from luthier.trainers.remote_errors import unwrap
from luthier.trainers.tokens import Encoded

if TYPE_CHECKING:
    from luthier.config.objective import ObjectiveName
    from luthier.trainers.objectives import Objective

_FORMAT = 3
"""Counts up when the encoding changes, so that no older cache is read."""

SAMPLING = {"max_train_samples", "max_eval_samples"}
"""Settings of ``data`` that say which tokenised rows are used, and change none of them."""

_TOKENS = {"row_id": pa.string(), "input_ids": pa.list_(pa.int32()), "labels": pa.list_(pa.int32())}
"""Columns of a block; while it is being made it has the following ones too."""

_ENCODED = pa.schema(
    {
        "split": pa.string(),
        **_TOKENS,
        "truncated": pa.bool_(),
        "num_loss_tokens": pa.int32(),
        "piece": pa.int32(),  # counted from 0 in each row
    }
)

_ROWS_PER_PROCESS = 20_000
"""More rows than this are shared out among several processes. Each first imports transformers: 10 s on a slow core, in
which time another one tokenises some 15 000 short rows."""

_ROWS_PER_BATCH = 1024
"""Rows that a process holds as Python objects."""


@dataclass(frozen=True)
class SplitAccount:
    """What became of a split's rows: ``rows = kept + dropped``.

    Attributes:
        rows: Rows read.
        kept: Rows that carry loss.
        truncated: Kept or dropped rows that lost tokens.
        dropped: Rows left without a token to learn.
        tokens: Tokens of the kept rows.
        loss_tokens: Those that carry loss; of classification, the rows.
        longest: Longest kept sequence in tokens; of preferences, both answers with their prompts.
        divided: Rows of plain text that were divided because they are too long.
        pieces: Sequences that these make.
    """

    rows: int
    kept: int
    truncated: int
    dropped: int
    tokens: int
    loss_tokens: int
    longest: int
    divided: int = 0
    pieces: int = 0


class Rows(Sequence[Encoded]):
    """Tokenised rows that stay in their file until one is asked for; slices are views.

    Args:
        table: The rows.
        order: Which of them, by position.
    """

    def __init__(self, table: pa.Table, order: Sequence[int]) -> None:
        self._table = table
        self._order = order

    def __len__(self) -> int:
        return len(self._order)

    @overload
    def __getitem__(self, index: int) -> Encoded: ...
    @overload
    def __getitem__(self, index: slice) -> Rows: ...
    def __getitem__(self, index: int | slice) -> Encoded | Rows:
        if isinstance(index, slice):
            return Rows(self._table, self._order[index])
        position = int(self._order[index])
        ids, labels = (tuple(self._table[name][position].values.to_pylist()) for name in ("input_ids", "labels"))
        return Encoded(self._table["row_id"][position].as_py(), ids, labels, False)

    def lengths(self) -> list[int]:
        """Tokens of each row."""
        all_lengths = pc.list_value_length(self._table["input_ids"]).to_numpy()
        return [int(length) for length in all_lengths[list(self._order)]]

    def by_length(self) -> Rows:
        """The same rows, the longest first."""
        lengths = self.lengths()
        places = sorted(range(len(self)), key=lengths.__getitem__, reverse=True)
        return Rows(self._table, [self._order[place] for place in places])

    def sample(self, limit: int | None, seed: int) -> Rows:
        """``limit`` rows drawn evenly, in their order; all where there are no more, or no limit is set."""
        if limit is None or limit >= len(self):
            return self
        return Rows(self._table, sorted(random.Random(seed).sample(self._order, limit)))


@dataclass(frozen=True)
class Block:
    """A tokenised split on disk.

    Attributes:
        path: Arrow file with ``row_id``, ``input_ids`` and ``labels``; its name is the digest of what it came from.
        account: What it holds.
        fingerprints: The source files.
        reused: Whether it was there already.
    """

    path: Path
    account: SplitAccount
    fingerprints: tuple[DataFingerprint, ...]
    reused: bool

    def read(self) -> Rows:
        """All rows, in file order. The file is mapped: processes of a machine share its pages."""
        table = _open(self.path).read_all()
        return Rows(table, range(table.num_rows))


@dataclass(frozen=True)
class _Source:
    """A split before it is tokenised, and where the result belongs."""

    rows: list[Row]
    fingerprints: tuple[DataFingerprint, ...]
    path: Path


def prepare_blocks(
    datasets: Sequence[DatasetConfig],
    data: DataConfig,
    base_model_dir: Path,
    splits: Sequence[Split],
    train: TrainConfig | None = None,
) -> dict[Split, Block]:
    """Tokenise splits of all datasets together, or find them in the cache. Ray must be initialised.

    Args:
        datasets: Where the rows come from.
        data: How they become tokens.
        base_model_dir: The pretrained model, whose tokenizer is used.
        splits: Which; one that no dataset has is left out of the result.
        train: Names the objective that the rows are for; None: sft.

    Raises:
        DataError: A file is malformed, or too many rows have nothing to learn after truncation.
        OutputError: The cache can't be written.
    """
    from luthier.trainers.objectives import build_objective

    train = train or TrainConfig()
    named = [split for split in splits if any(split_path(dataset, split) for dataset in datasets)]
    classes = classes_of(datasets) if train.objective == "classification" else ()
    aim = (train.objective, classes)
    sources = {split: _source(datasets, data, base_model_dir, split, aim) for split in named}
    absent = {split: source.rows for split, source in sources.items() if not source.path.exists()}
    if absent:
        encoded = _encode(absent, build_objective(train, data, base_model_dir, classes))
        for split in absent:
            _make(encoded.filter(pc.equal(encoded["split"], split)), sources[split].path, data, split)
    return {
        split: Block(source.path, _account_in(source.path), source.fingerprints, reused=split not in absent)
        for split, source in sources.items()
    }


def _source(
    datasets: Sequence[DatasetConfig],
    data: DataConfig,
    base_model_dir: Path,
    split: Split,
    aim: tuple[ObjectiveName, tuple[str, ...]],
) -> _Source:
    present = [dataset for dataset in datasets if split_path(dataset, split)]
    read = [read_rows(dataset, split, aim[0]) for dataset in present]
    prints = tuple(fingerprint(dataset, split, len(rows)) for dataset, rows in zip(present, read, strict=True))
    key = sha256_json(
        {
            "format": _FORMAT,
            "model": base_digest(base_model_dir),
            "data": data.model_dump(mode="json", exclude=SAMPLING),
            "datasets": [
                dataset.model_dump(mode="json", include={"name", "system", "prompt", "labels"}) for dataset in present
            ],
            "files": [[Path(mark.path).name, mark.sha256] for mark in prints],
            "aim": aim,
        }
    )
    path = cache_dir() / "blocks" / f"{split}-{key[:24]}.arrow"
    return _Source([row for rows in read for row in rows], prints, path)


class _Tokenise:
    """Ray Data stage: rows to token ids. One instance per process, one tokenizer each."""

    def __init__(self, objective: Objective) -> None:
        # Its tokenizer is loaded when first used: of an error in a constructor, Ray would bring back the text alone.
        self._objective = objective

    def __call__(self, batch: pa.Table) -> pa.Table:
        splits, rows = (batch[name].to_pylist() for name in ("split", "row"))
        values = [
            (split, one.row_id, one.input_ids, one.labels, one.truncated, one.num_loss_tokens, piece)
            for split, row in zip(splits, rows, strict=True)
            for piece, one in enumerate(self._objective.encode(row_from_dict(json.loads(row))))
        ]
        return pa.Table.from_pylist([dict(zip(_ENCODED.names, row, strict=True)) for row in values], schema=_ENCODED)


def _encode(rows: Mapping[Split, Sequence[Row]], objective: Objective) -> pa.Table:
    """All rows of several splits in one stage, because each starts a process that imports transformers."""
    import ray.data
    from ray.exceptions import RayError

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    context.raise_original_map_exception = True  # what Ray Data wraps, it brings back as text alone
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # it warns that there are no bars
    parts = _partition(rows)
    with warnings.catch_warnings():
        # Ray prints an error of its own about actors that may be restarted, and calls the one way to say no old.
        warnings.simplefilter("ignore", DeprecationWarning)
        stage = ray.data.from_arrow(parts).map_batches(
            _Tokenise,
            fn_constructor_args=(objective,),
            batch_format="pyarrow",
            batch_size=_ROWS_PER_BATCH,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=len(parts)),
            max_restarts=0,
        )
    try:
        return pa.concat_tables(stage.iter_batches(batch_size=None, batch_format="pyarrow")).cast(_ENCODED)
    except RayError as error:
        raise unwrap(error) or error from error


def _partition(rows: Mapping[Split, Sequence[Row]]) -> list[pa.Table]:
    table = pa.Table.from_pylist(
        [{"split": split, "row": json.dumps(asdict(row))} for split, of_split in rows.items() for row in of_split]
    )
    return [table.slice(start, _ROWS_PER_PROCESS) for start in range(0, table.num_rows, _ROWS_PER_PROCESS)]


def _make(encoded: pa.Table, path: Path, data: DataConfig, split: Split) -> None:
    """Check a tokenised split, and write the rows that carry loss."""
    kept = encoded.filter(pc.greater(encoded["num_loss_tokens"], 0))
    account = _account_for(encoded, kept)
    _check(account, encoded, data, split)
    table = kept.select(list(_TOKENS)).replace_schema_metadata({"account": json.dumps(asdict(account))})
    target = subcache("blocks") / path.name
    half_made = target.with_name(f"{target.name}.{os.getpid()}.partial")
    with pa.ipc.new_file(half_made, table.schema) as writer:
        writer.write_table(table)
    half_made.replace(target)


def _account_for(encoded: pa.Table, kept: pa.Table) -> SplitAccount:
    lengths = pc.list_value_length(kept["input_ids"])
    rows, rows_kept = (pc.sum(pc.equal(table["piece"], 0)).as_py() or 0 for table in (encoded, kept))
    divided = pc.sum(pc.equal(encoded["piece"], 1)).as_py() or 0
    return SplitAccount(
        rows=rows,
        kept=rows_kept,
        truncated=pc.sum(encoded["truncated"]).as_py() or 0,
        dropped=rows - rows_kept,
        tokens=pc.sum(lengths).as_py() or 0,
        loss_tokens=pc.sum(kept["num_loss_tokens"]).as_py() or 0,
        longest=pc.max(lengths).as_py() or 0,
        divided=divided,
        pieces=encoded.num_rows - rows + divided,
    )


def _check(account: SplitAccount, encoded: pa.Table, data: DataConfig, split: Split) -> None:
    """Refuse a split that lost more than the config allows."""
    if account.truncated and not data.truncation:
        first = encoded.filter(encoded["truncated"])["row_id"][0]
        raise DataError(
            f"{split}: {account.truncated} rows are longer than data.max_length={data.max_length} tokens, the first at "
            f"{first}; raise data.max_length or set data.truncation: true."
        )
    if account.dropped > data.max_dropped_fraction * account.rows:
        first = encoded.filter(pc.equal(encoded["num_loss_tokens"], 0))["row_id"][0]
        raise DataError(
            f"{split}: {account.dropped} of {account.rows} rows have no token to learn after truncation to "
            f"data.max_length={data.max_length}, the first at {first}; the limit is data.max_dropped_fraction="
            f"{data.max_dropped_fraction}. Raise data.max_length."
        )


def _open(path: Path) -> pa.ipc.RecordBatchFileReader:
    return pa.ipc.open_file(pa.memory_map(str(path)))


def _account_in(path: Path) -> SplitAccount:
    return SplitAccount(**json.loads(_open(path).schema.metadata[b"account"]))
