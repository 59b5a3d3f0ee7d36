"""Tokenised splits: made once by Ray Data, kept as Arrow files under the digest of what they came from.

Workers map the finished file instead of streaming from Ray Data while they train, because the training workers reserve
the cluster's CPUs and a read task beside them would wait for ever.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from luthier.config.checks import ChecksConfig
from luthier.config.data import DataConfig, DatasetConfig
from luthier.config.train import TrainConfig
from luthier.digests import sha256_json
from luthier.manifest import DataFingerprint
from luthier.paths import cache_dir
from luthier.trainers.accounts import SAMPLES, SplitAccount
from luthier.trainers.base_model import base_digest, subcache
from luthier.trainers.block_file import BlockWriter, read_account, read_table
from luthier.trainers.doctor.examine import Examiner, findings_key
from luthier.trainers.doctor.findings_file import FindingsWriter
from luthier.trainers.doctor.redact import key_mark, row_redactor
from luthier.trainers.files import Split, classes_of, file_digest, split_path
from luthier.trainers.tokens import Encoded

if TYPE_CHECKING:
    from luthier.config.objective import ObjectiveName
    from luthier.trainers.objectives import Objective

_FORMAT = 5
"""Counts up when the encoding changes, so that no older cache is read."""

SAMPLING = set(SAMPLES.values())
"""Settings of ``data`` that say which tokenised rows are used, and change none of them."""


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
        return Encoded(self._table["row_id"][position].as_py(), ids, labels)

    def lengths(self) -> list[int]:
        """Tokens of each row."""
        all_lengths = pc.list_value_length(self._table["input_ids"]).to_numpy()
        return [int(length) for length in all_lengths[np.asarray(self._order)]]

    def datasets(self) -> list[str]:
        """Name of the dataset that each row is of."""
        coded = self._table["dataset"].combine_chunks().dictionary_encode()
        names = coded.dictionary.to_pylist()
        return [names[code] for code in coded.indices.to_numpy()[np.asarray(self._order)]]

    def by_dataset(self) -> dict[str, Rows]:
        """The rows of each dataset, in their order."""
        positions: dict[str, list[int]] = {}
        for position, name in zip(self._order, self.datasets(), strict=True):
            positions.setdefault(name, []).append(position)
        return {name: Rows(self._table, order) for name, order in positions.items()}

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
        path: Arrow file with ``row_id``, ``dataset``, ``input_ids`` and ``labels``; its name is the digest of what it
            came from.
        account: What it holds.
        fingerprints: The source files.
        reused: Whether it was there already.
        findings: Arrow file of what the doctor found in each row; None where it was not asked.
    """

    path: Path
    account: SplitAccount
    fingerprints: tuple[DataFingerprint, ...]
    reused: bool
    findings: Path | None = None

    def read(self) -> Rows:
        """All rows, in file order. The file is mapped: processes of a machine share its pages."""
        table = read_table(self.path)
        return Rows(table, range(table.num_rows))


@dataclass(frozen=True)
class _Wanted:
    """A split that is to be there tokenised.

    Attributes:
        datasets: Those that have it.
        digests: Of their files.
        path: Where it belongs.
        findings: Where the doctor's findings belong; None: it is not asked.
    """

    datasets: tuple[DatasetConfig, ...]
    digests: tuple[str, ...]
    path: Path
    findings: Path | None

    @property
    def is_there(self) -> bool:
        """Whether all of it is in the cache."""
        return self.path.exists() and (self.findings is None or self.findings.exists())

    def block(self, data: DataConfig, split: Split, *, reused: bool) -> Block:
        """The finished split."""
        account = read_account(self.path).under(data, split)
        prints = tuple(
            DataFingerprint(path=str(split_path(dataset, split)), rows=account.datasets[dataset.name], sha256=digest)
            for dataset, digest in zip(self.datasets, self.digests, strict=True)
        )
        return Block(self.path, account, prints, reused, self.findings)


def prepare_blocks(
    datasets: Sequence[DatasetConfig],
    data: DataConfig,
    base_model_dir: Path,
    splits: Sequence[Split],
    train: TrainConfig | None = None,
    checks: ChecksConfig | None = None,
) -> dict[Split, Block]:
    """Tokenise splits of all datasets together, or find them in the cache. Ray must be initialised.

    Args:
        datasets: Where the rows come from.
        data: How they become tokens.
        base_model_dir: The pretrained model, whose tokenizer is used.
        splits: Which; one that no dataset has is left out of the result.
        train: Names the objective that the rows are for; None: sft.
        checks: What the doctor looks for in each row meanwhile; None: it is not asked. Rows that were tokenised without it
            are read and tokenised again.

    Raises:
        ConfigError: The key of ``data.redact`` is not there.
        DataError: A file is malformed, or too many rows have nothing to learn after truncation.
        OutputError: The cache can't be written.
    """
    from luthier.trainers.objectives import build_objective

    train = train or TrainConfig()
    named = [split for split in splits if any(split_path(dataset, split) for dataset in datasets)]
    classes = classes_of(datasets) if train.objective == "classification" else ()
    aim = (train.objective, classes)
    wanted = {split: _wanted(datasets, data, base_model_dir, split, aim, checks) for split in named}
    absent = {split: one for split, one in wanted.items() if not one.is_there}
    if absent:
        examiner = Examiner(checks) if checks else None
        _make(absent, data, train.objective, build_objective(train, data, base_model_dir, classes), examiner)
    return {split: one.block(data, split, reused=split not in absent) for split, one in wanted.items()}


def _wanted(
    datasets: Sequence[DatasetConfig],
    data: DataConfig,
    base_model_dir: Path,
    split: Split,
    aim: tuple[ObjectiveName, tuple[str, ...]],
    checks: ChecksConfig | None,
) -> _Wanted:
    present = tuple(dataset for dataset in datasets if split_path(dataset, split))
    files = [(str(split_path(dataset, split)), file_digest(dataset, split)) for dataset in present]
    key = sha256_json(
        {
            "format": _FORMAT,
            "model": base_digest(base_model_dir),
            "data": data.model_dump(mode="json", exclude={*SAMPLING, "checks"}),
            "redacted_with": key_mark(data.redact),
            "datasets": [
                dataset.model_dump(mode="json", include={"name", "system", "prompt", "labels", "columns"})
                for dataset in present
            ],
            "files": [[Path(path).name, digest] for path, digest in files],
            "aim": aim,
        }
    )
    place = cache_dir() / "blocks" / f"{split}-{key[:24]}.arrow"
    beside = f"{place.stem}-{sha256_json(findings_key(checks))[:12]}.findings" if checks else None
    found = place.with_name(beside) if beside else None
    return _Wanted(present, tuple(digest for _, digest in files), place, found)


def _make(
    absent: dict[Split, _Wanted],
    data: DataConfig,
    name: ObjectiveName,
    objective: Objective,
    examiner: Examiner | None,
) -> None:
    """Tokenise splits in one stage, and write each as it comes, with what is found in its rows."""
    from luthier.trainers.tokenise import Source, tokenised

    subcache("blocks")
    here = Path.cwd()
    sources = [Source(dataset, split, name, here) for split, one in absent.items() for dataset in one.datasets]
    with ExitStack() as until_written:
        files = {split: until_written.enter_context(BlockWriter(one.path)) for split, one in absent.items()}
        found = {
            split: until_written.enter_context(FindingsWriter(one.findings))
            for split, one in absent.items()
            if one.findings
        }
        for table in tokenised(sources, objective, examiner, row_redactor(data.redact)):
            for split in files:
                mine = table.filter(pc.equal(table["split"], split))
                files[split].add(mine)
                if split in found:
                    found[split].add(mine)
        for split, file in files.items():
            file.finish(data, split)
        for findings in found.values():
            findings.put()
