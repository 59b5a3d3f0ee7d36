"""Tokenised splits: made once by Ray Data, kept as Parquet under the digest of what they came from.

Workers map the finished file instead of streaming from Ray Data while they train, because the training workers reserve
the cluster's CPUs and a read task beside them would wait for ever.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from luthier.config.data import DataConfig, DatasetConfig
from luthier.digests import sha256_json
from luthier.errors import DataError
from luthier.manifest import DataFingerprint
from luthier.paths import cache_dir
from luthier.rows import Message, Row
from luthier.trainers.base_model import base_digest
from luthier.trainers.files import Split, fingerprint, read_rows
from luthier.trainers.tokens import ChatTokenizer, Encoded

_FORMAT = 1
"""Counts up when the encoding changes, so that no older cache is read."""


@dataclass(frozen=True)
class SplitAccount:
    """What became of a split's rows: ``rows = kept + dropped``.

    Attributes:
        rows: Rows read.
        kept: Rows that carry loss.
        truncated: Kept or dropped rows that lost tokens.
        dropped: Rows left without a token to learn.
        tokens: Tokens of the kept rows.
        loss_tokens: Those that carry loss.
        longest: Longest kept row in tokens.
    """

    rows: int
    kept: int
    truncated: int
    dropped: int
    tokens: int
    loss_tokens: int
    longest: int


@dataclass(frozen=True)
class Block:
    """A tokenised split on disk.

    Attributes:
        path: Parquet file with ``row_id``, ``input_ids`` and ``labels``.
        account: What it holds.
        fingerprints: The source files.
        reused: Whether it was there already.
    """

    path: Path
    account: SplitAccount
    fingerprints: tuple[DataFingerprint, ...]
    reused: bool

    def read(self) -> list[Encoded]:
        """All rows, in file order."""
        table = pq.read_table(self.path, memory_map=True)
        columns = zip(*(table[name].to_pylist() for name in ("row_id", "input_ids", "labels")), strict=True)
        return [Encoded(row_id, tuple(ids), tuple(labels), False) for row_id, ids, labels in columns]


def prepare_block(datasets: Sequence[DatasetConfig], data: DataConfig, base_model_dir: Path, split: Split) -> Block:
    """Tokenise one split of every dataset, or find it in the cache. Ray must be initialised.

    Raises:
        DataError: A file is malformed, or too many rows have nothing to learn after truncation.
    """
    present = [dataset for dataset in datasets if getattr(dataset, split) is not None]
    read = [(dataset, read_rows(dataset, split)) for dataset in present]
    prints = tuple(fingerprint(dataset, split, len(rows)) for dataset, rows in read)
    key = sha256_json(
        {
            "format": _FORMAT,
            "model": base_digest(base_model_dir),
            "data": data.model_dump(mode="json"),
            "datasets": [
                dataset.model_dump(mode="json", include={"system", "prompt", "labels"}) for dataset in present
            ],
            "files": [mark.sha256 for mark in prints],
        }
    )
    path = cache_dir() / "blocks" / f"{split}-{key[:24]}.parquet"
    if path.exists():
        return Block(path, _account_in(path), prints, reused=True)
    rows = [row for _, of_dataset in read for row in of_dataset]
    encoded = _encode(rows, data, base_model_dir)
    account = account_for(encoded)
    _check(account, encoded, data, split)
    _write(path, [row for row in encoded if row.num_loss_tokens], account)
    return Block(path, account, prints, reused=False)


def account_for(encoded: Sequence[Encoded]) -> SplitAccount:
    """Count what encoding did to a split."""
    kept = [row for row in encoded if row.num_loss_tokens]
    return SplitAccount(
        rows=len(encoded),
        kept=len(kept),
        truncated=sum(row.truncated for row in encoded),
        dropped=len(encoded) - len(kept),
        tokens=sum(len(row.input_ids) for row in kept),
        loss_tokens=sum(row.num_loss_tokens for row in kept),
        longest=max((len(row.input_ids) for row in kept), default=0),
    )


class _EncodeBatch:
    """Ray Data stage: conversations to token ids. One instance per worker process, one tokenizer each."""

    def __init__(self, base_model_dir: Path, max_length: int, assistant_only_loss: bool) -> None:
        self.tokenizer = ChatTokenizer(base_model_dir)
        self.max_length = max_length
        self.assistant_only_loss = assistant_only_loss

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        rows = [
            Row(row_id, tuple(Message(**turn) for turn in json.loads(turns)))
            for row_id, turns in zip(batch["row_id"], batch["messages"], strict=True)
        ]
        encoded = [
            self.tokenizer.encode(row, max_length=self.max_length, assistant_only_loss=self.assistant_only_loss)
            for row in rows
        ]
        return {"encoded": [json.dumps([r.row_id, r.input_ids, r.labels, r.truncated]) for r in encoded]}


def _encode(rows: Sequence[Row], data: DataConfig, base_model_dir: Path) -> list[Encoded]:
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    context.execution_options.preserve_order = True
    items = [{"row_id": row.row_id, "messages": json.dumps([m.as_dict() for m in row.messages])} for row in rows]
    arguments = (base_model_dir, data.max_length, data.assistant_only_loss)
    one_process = ray.data.ActorPoolStrategy(size=1)
    stage = ray.data.from_items(items).map_batches(_EncodeBatch, fn_constructor_args=arguments, compute=one_process)
    return [
        Encoded(row_id, tuple(ids), tuple(labels), truncated)
        for row_id, ids, labels, truncated in (json.loads(item["encoded"]) for item in stage.iter_rows())
    ]


def _check(account: SplitAccount, encoded: Sequence[Encoded], data: DataConfig, split: Split) -> None:
    """Refuse a split that lost more than the config allows."""
    if account.truncated and not data.truncation:
        first = next(row.row_id for row in encoded if row.truncated)
        raise DataError(
            f"{split}: {account.truncated} rows are longer than data.max_length={data.max_length} tokens, the first at "
            f"{first}; raise data.max_length or set data.truncation: true."
        )
    if account.dropped > data.max_dropped_fraction * account.rows:
        first = next(row.row_id for row in encoded if not row.num_loss_tokens)
        raise DataError(
            f"{split}: {account.dropped} of {account.rows} rows have no token to learn after truncation to "
            f"data.max_length={data.max_length}, the first at {first}; the limit is data.max_dropped_fraction="
            f"{data.max_dropped_fraction}. Raise data.max_length."
        )


def _write(path: Path, kept: Sequence[Encoded], account: SplitAccount) -> None:
    table = pa.table(
        {
            "row_id": [row.row_id for row in kept],
            "input_ids": pa.array([row.input_ids for row in kept], pa.list_(pa.int32())),
            "labels": pa.array([row.labels for row in kept], pa.list_(pa.int32())),
        }
    ).replace_schema_metadata({"account": json.dumps(asdict(account))})
    path.parent.mkdir(parents=True, exist_ok=True)
    half_made = path.with_name(f"{path.name}.{os.getpid()}.partial")
    pq.write_table(table, half_made)
    half_made.replace(path)


def _account_in(path: Path) -> SplitAccount:
    metadata = pq.read_schema(path).metadata
    return SplitAccount(**json.loads(metadata[b"account"]))
