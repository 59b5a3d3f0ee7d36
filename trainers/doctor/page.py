"""The report of the data as a single HTML file that loads nothing and runs no script."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from luthier.trainers.data_report import DataReport, SplitReport
from luthier.trainers.doctor import plots
from luthier.trainers.doctor.listed import MOST_LISTED, Listed
from luthier.trainers.evaluation.drawing import style
from luthier.trainers.evaluation.page import page_environment, svg_or_none

_TEMPLATES = Path(__file__).parent / "templates"

_FOUND = {
    "repeated": "repeat an earlier row of the split",
    "nearly_repeated": "nearly repeat an earlier row of the split",
    "also_in_train": "ask what a training row asks too",
    "nearly_in_train": "are nearly a training row",
    "also_in_validation": "ask what a validation row asks too",
    "conflicting_labels": "have another label than a row that asks the same",
    "new_labels": "have a label that no training row has",
    "unusual_length": "are far shorter or longer than the rest",
    "unusual_text": "take far more or fewer tokens a character than the rest",
    "with_pii": "hold personal data or secrets",
}
"""What is said of rows in which something was found."""


def render_data(title: str, report: DataReport) -> str:
    """The report as a page of HTML. It holds no text of the rows, unless the report has a preview, and labels.

    Args:
        title: Heading, usually the run's name.
        report: The checked data.
    """
    values: dict[str, Any] = {
        "title": title,
        "groups": [_group(name, splits) for name, splits in _by_training(report).items()],
        "found": _FOUND,
        "most_listed": MOST_LISTED,
        "refusals": [why for name, one in report.splits.items() if (why := one.leakage(name))],
    }
    return page_environment(_TEMPLATES).get_template("data.html.jinja").render(values)


def _by_training(report: DataReport) -> dict[str, dict[str, SplitReport]]:
    """Splits by the stage that they are of; of a run without stages, all under no name."""
    found: dict[str, dict[str, SplitReport]] = {}
    for name, one in report.splits.items():
        stage, _, split = name.rpartition("/")
        found.setdefault(stage, {})[split] = one
    return found


def _group(name: str, splits: Mapping[str, SplitReport]) -> dict[str, Any]:
    counts = {
        field: {split: getattr(one.health, field) for split, one in splits.items() if getattr(one.health, field)}
        for field in ("labels", "languages", "pii")
    }
    with style():
        pictures = {
            "lengths": svg_or_none(plots.lengths_figure(splits)),
            "labels": svg_or_none(plots.shares_figure(counts["labels"], "Share of the rows by label")),
            "languages": svg_or_none(plots.shares_figure(counts["languages"], "Share of the rows by language")),
        }
    return {
        "name": name,
        "splits": splits,
        "lines": DataReport(dict(splits)).lines(),
        "pictures": pictures,
        "pii": counts["pii"],
        "found": {field: _where(splits, field) for field in _FOUND},
        "room": next((one.room for one in splits.values() if one.room), None),
        "preview": [row for one in splits.values() for row in one.preview],
    }


def _where(splits: Mapping[str, SplitReport], field: str) -> dict[str, Listed]:
    found: dict[str, Listed] = {split: getattr(one.health, field) for split, one in splits.items()}
    return {split: one for split, one in found.items() if one.num}
