"""What the data looks like before anything is trained on it."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.table import Table

from luthier.config.run import RunConfig
from luthier.config.sequence import trainings
from luthier.rows import Row
from luthier.trainers.accounts import SplitAccount
from luthier.trainers.blocks import prepare_blocks
from luthier.trainers.files import SPLITS, Split, iter_split


@dataclass(frozen=True)
class SplitReport:
    """One split of all datasets together.

    Attributes:
        account: What tokenising did to its rows.
        labels: Rows per label; empty for data without labels.
        repeated_in_train: Rows whose prompt stands in the training split too (0 for the training split).
        reused: Whether the tokenised rows were in the cache.
    """

    account: SplitAccount
    labels: dict[str, int]
    repeated_in_train: int
    reused: bool

    def lines(self) -> dict[str, int]:
        """What is shown of it, in order."""
        account = self.account
        return {
            "rows": account.rows,
            "rows kept": account.kept,
            "rows dropped": account.dropped,
            **{f"  {reason}": count for reason, count in account.reasons.items()},
            f"rows truncated to data.max_length={account.limits.get('data.max_length')}": account.truncated,
            "  tokens cut off": account.cut_tokens,
            "rows divided": account.divided,
            "  pieces": account.pieces,
            "left out by data.max_*_samples": account.not_drawn,
            "tokens": account.tokens,
            "tokens with loss": account.loss_tokens,
            "longest": account.longest,
            "prompts also in train": self.repeated_in_train,
        }


_ALWAYS = ("rows", "rows kept", "rows dropped", "tokens", "tokens with loss", "longest")
"""Lines that are shown even where all their figures are 0."""


@dataclass(frozen=True)
class DataReport:
    """The checked data of a run, by split; of a run with stages by ``<stage>/<split>``."""

    splits: dict[str, SplitReport] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {name: asdict(report) for name, report in self.splits.items()}

    def table(self) -> Table:
        """For the terminal: a line for each figure, so that it fits into a narrow one; lines of noughts are left out."""
        table = Table("", *self.splits)
        for column in table.columns[1:]:
            column.justify = "right"
        columns = [report.lines() for report in self.splits.values()]
        for name in dict.fromkeys(name for column in columns for name in column):
            figures = [column.get(name, 0) for column in columns]
            if name in _ALWAYS or any(figures):
                table.add_row(name, *(f"{figure:,}" for figure in figures))
        return table


def check_data(cfg: RunConfig, base_model_dir: Path) -> DataReport:
    """Read, check and tokenise every split that the config names. Ray must be initialised.

    Raises:
        DataError: Names file and line of the first row that can't be used.
    """
    splits: dict[str, SplitReport] = {}
    names = [f"{stage.name}/" for stage in cfg.stages] or [""]
    for name, training in zip(names, trainings(cfg), strict=True):
        splits |= {f"{name}{split}": report for split, report in _check(training, base_model_dir).items()}
    return DataReport(splits)


def _check(cfg: RunConfig, base_model_dir: Path) -> dict[Split, SplitReport]:
    """The same of one training."""
    blocks = prepare_blocks(cfg.datasets, cfg.data, base_model_dir, SPLITS, cfg.train)
    train_prompts: npt.NDArray[np.uint64] | None = None
    splits: dict[Split, SplitReport] = {}
    for split, block in blocks.items():
        labels, prompts = _survey(cfg, split)
        repeated = 0 if train_prompts is None else int(np.isin(prompts, train_prompts).sum())
        train_prompts = np.unique(prompts) if train_prompts is None else train_prompts
        splits[split] = SplitReport(block.account, labels, repeated, block.reused)
    return splits


def _survey(cfg: RunConfig, split: Split) -> tuple[dict[str, int], npt.NDArray[np.uint64]]:
    """Rows per label, and a digest of each row's prompt: 8 bytes a row are all that is kept."""
    labels: Counter[str] = Counter()
    prompts = array("Q")
    for row in iter_split(cfg.datasets, split, cfg.train.objective):
        if row.label is not None:
            labels[row.label] += 1
        prompts.append(_digest(row))
    return dict(labels.most_common()), np.frombuffer(prompts, dtype=np.uint64)


def _digest(row: Row) -> int:
    asked = [message.content for message in row.prompt] or [row.text or ""]
    text = "\0".join(one.strip().casefold() for one in asked)
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest(), "little")
