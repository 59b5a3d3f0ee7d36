"""What the data looks like before anything is trained on it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from luthier.config.run import RunConfig
from luthier.config.sequence import trainings
from luthier.errors import DataError
from luthier.trainers.accounts import SplitAccount
from luthier.trainers.blocks import Block, prepare_blocks
from luthier.trainers.doctor.findings_file import read_findings
from luthier.trainers.doctor.health import Health, health_of
from luthier.trainers.doctor.preview import Shown, show
from luthier.trainers.doctor.room import Room, room_of
from luthier.trainers.files import SPLITS, Split, classes_of


@dataclass(frozen=True)
class SplitReport:
    """One split of all datasets together.

    Attributes:
        account: What tokenising did to its rows.
        health: What was found in them.
        reused: Whether the tokenised rows were in the cache.
        length_edges: Edges, in tokens, of the bins of its lengths.
        room: What the training split would take, packed and padded; None of other splits, and where rows are not packed.
        max_leakage: Largest share of rows whose prompt may stand in a training row too; None: any.
        preview: Rows with their text, where they were asked for.
    """

    account: SplitAccount
    health: Health
    reused: bool
    length_edges: tuple[int, ...] = ()
    room: Room | None = None
    max_leakage: float | None = None
    preview: tuple[Shown, ...] = ()

    def lines(self) -> dict[str, int]:
        """What is shown of it, in order."""
        account, health = self.account, self.health
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
            "prompts also in train": health.also_in_train.num,
            "rows nearly in train": health.nearly_in_train.num,
            "prompts also in validation": health.also_in_validation.num,
            "repeated rows": health.repeated.num,
            "nearly repeated rows": health.nearly_repeated.num,
            "labels that contradict": health.conflicting_labels.num,
            "labels not in train": health.new_labels.num,
            "unusual length": health.unusual_length.num,
            "unusual text": health.unusual_text.num,
            "rows with personal data": health.with_pii.num,
            **{f"  {kind}": count for kind, count in health.pii.items()},
            **{f"rows with {kind} taken out": count for kind, count in account.redacted.items()},
        }

    def leakage(self, split: str) -> str | None:
        """Why the split can't be measured on, if it can't."""
        leaked, rows = self.health.also_in_train, self.health.rows
        if self.max_leakage is None or leaked.num <= self.max_leakage * rows:
            return None
        return (
            f"{split}: {leaked.num} of {rows} rows ({leaked.num / rows:.1%}) ask what a training row asks too, the first "
            f"{leaked.rows[0]}; the limit is data.checks.max_leakage={self.max_leakage}. Take them out of one of the two, or "
            "raise the limit."
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        told = {"account": asdict(self.account), **asdict(self.health), "reused": self.reused}
        told |= {"repeated_in_train": self.health.also_in_train.num, "length_edges": self.length_edges}
        told |= {"room": self.room and asdict(self.room), "max_leakage": self.max_leakage}
        return told | ({"preview": [asdict(one) for one in self.preview]} if self.preview else {})


_ALWAYS = ("rows", "rows kept", "rows dropped", "tokens", "tokens with loss", "longest")
"""Lines that are shown even where all their figures are 0."""


@dataclass(frozen=True)
class DataReport:
    """The checked data of a run, by split; of a run with stages by ``<stage>/<split>``."""

    splits: dict[str, SplitReport] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {name: report.as_dict() for name, report in self.splits.items()}

    def check(self) -> None:
        """Refuse data that a model could not be measured on.

        Raises:
            DataError: More rows than ``data.checks.max_leakage`` allows were learned too.
        """
        for name, report in self.splits.items():
            if problem := report.leakage(name):
                raise DataError(problem)

    def lines(self) -> dict[str, list[int]]:
        """Figures by name, one for each split; lines of noughts are left out."""
        columns = [report.lines() for report in self.splits.values()]
        names = dict.fromkeys(name for column in columns for name in column)
        lines = {name: [column.get(name, 0) for column in columns] for name in names}
        return {name: figures for name, figures in lines.items() if name in _ALWAYS or any(figures)}

    def table(self) -> Table:
        """For the terminal: a line for each figure, so that it fits into a narrow one."""
        table = Table("", *self.splits)
        for column in table.columns[1:]:
            column.justify = "right"
        for name, figures in self.lines().items():
            table.add_row(name, *(f"{figure:,}" for figure in figures))
        rooms = [report.room for report in self.splits.values()]
        if any(rooms):
            table.add_row("filled by tokens, packed", *(f"{room.packed:.1%}" if room else "" for room in rooms))
            table.add_row("  padded", *(f"{room.padded:.1%}" if room else "" for room in rooms))
        return table


def check_data(cfg: RunConfig, base_model_dir: Path, preview: int = 0) -> DataReport:
    """Read, examine and tokenise every split that the config names. Ray must be initialised.

    Args:
        cfg: The configuration.
        base_model_dir: The pretrained model.
        preview: Training rows to show with their text.

    Raises:
        DataError: Names file and line of the first row that can't be used.
    """
    splits: dict[str, SplitReport] = {}
    names = [f"{stage.name}/" for stage in cfg.stages] or [""]
    for name, training in zip(names, trainings(cfg), strict=True):
        splits |= {f"{name}{split}": report for split, report in _check(training, base_model_dir, preview).items()}
    return DataReport(splits)


def _check(cfg: RunConfig, base_model_dir: Path, preview: int) -> dict[Split, SplitReport]:
    """The same of one training."""
    checks = cfg.data.checks
    blocks = prepare_blocks(cfg.datasets, cfg.data, base_model_dir, SPLITS, cfg.train, checks)
    findings = {split: read_findings(block.findings) for split, block in blocks.items() if block.findings}
    health, edges = health_of(findings, checks.near_duplicates, cfg.data.max_length)
    return {
        split: SplitReport(
            account=block.account,
            health=health[split],
            reused=block.reused,
            length_edges=edges,
            room=_room(cfg, block) if split == "train" else None,
            max_leakage=checks.max_leakage,
            preview=_preview(cfg, base_model_dir, block, preview) if split == "train" and preview else (),
        )
        for split, block in blocks.items()
    }


def _room(cfg: RunConfig, block: Block) -> Room | None:
    """What training sequences would take; None where there are none, or where they can't be packed."""
    lengths = block.read().sample(cfg.data.max_train_samples, cfg.seed).lengths()
    if not lengths or not cfg.train.learns_tokens:
        return None
    rows = cfg.train.per_device_train_batch_size
    return room_of(lengths, cfg.data.max_length, rows, cfg.seed, packing=cfg.train.packing)


def _preview(cfg: RunConfig, base_model_dir: Path, block: Block, number: int) -> tuple[Shown, ...]:
    """Training rows drawn by the seed, as they were tokenised."""
    from luthier.trainers.objectives import build_objective

    classes = classes_of(cfg.datasets) if cfg.train.objective == "classification" else ()
    hf = build_objective(cfg.train, cfg.data, base_model_dir, classes).tokenizer.hf
    return tuple(show(row, hf, classes) for row in block.read().sample(number, cfg.seed))
