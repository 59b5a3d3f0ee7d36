"""What the data looks like before anything is trained on it."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from luthier.config.run import RunConfig
from luthier.rows import Row
from luthier.trainers.blocks import SplitAccount, prepare_blocks
from luthier.trainers.files import SPLITS, Split, read_split


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


@dataclass(frozen=True)
class DataReport:
    """The checked data of a run, by split."""

    splits: dict[Split, SplitReport] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {name: asdict(report) for name, report in self.splits.items()}

    def table(self) -> Table:
        """For the terminal."""
        names = ("rows", "tokens", "with loss", "longest", "divided", "truncated", "dropped", "also in train")
        table = Table("split", *names)
        for name, report in self.splits.items():
            account = report.account
            figures = (account.rows, account.tokens, account.loss_tokens, account.longest)
            losses = (account.divided, account.truncated, account.dropped, report.repeated_in_train)
            table.add_row(name, *(f"{figure:,}" for figure in (*figures, *losses)))
        return table


def check_data(cfg: RunConfig, base_model_dir: Path) -> DataReport:
    """Read, check and tokenise every split that the config names. Ray must be initialised.

    Raises:
        DataError: Names file and line of the first row that can't be used.
    """
    objective = cfg.train.objective
    blocks = prepare_blocks(cfg.datasets, cfg.data, base_model_dir, SPLITS, cfg.train)
    train_prompts = {_key(row) for row in read_split(cfg.datasets, "train", objective)}
    splits: dict[Split, SplitReport] = {}
    for split, block in blocks.items():
        rows = read_split(cfg.datasets, split, objective)
        repeated = 0 if split == "train" else sum(_key(row) in train_prompts for row in rows)
        labels = dict(Counter(row.label for row in rows if row.label is not None).most_common())
        splits[split] = SplitReport(block.account, labels, repeated, block.reused)
    return DataReport(splits)


def _key(row: Row) -> tuple[str, ...]:
    asked = [message.content for message in row.prompt] or [row.text or ""]
    return tuple(text.strip().casefold() for text in asked)
