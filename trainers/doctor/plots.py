"""The pictures of the report of the data."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from luthier.trainers.data_report import SplitReport
from luthier.trainers.evaluation.drawing import COLORS

_SPLIT_COLORS = {"train": COLORS["tuned"], "validation": COLORS["validation"], "test": COLORS["few_shot"]}

MOST_DRAWN = 30
"""Bars of one picture; the rest are counted as others."""

Counts = Mapping[str, Mapping[str, int]]
"""Rows by split and by value."""


def lengths_figure(splits: Mapping[str, SplitReport]) -> Figure:
    """Share of each split's rows by their tokens, with the limit as a line."""
    figure = Figure(figsize=(10.5, 3.4), layout="constrained")
    axes = figure.subplots()
    for name, report in splits.items():
        shares = [count / max(report.health.rows, 1) for count in report.health.lengths.counts]
        axes.stairs(shares, report.length_edges, color=_color(name), linewidth=2, label=name)
    limit = next(iter(splits.values())).account.limits.get("data.max_length")
    if limit is not None:
        axes.axvline(limit, color=COLORS["bad"], linewidth=1.4, linestyle="--", label="data.max_length")
    axes.set(xlabel="tokens of a row, with those that are cut off", title="Share of the rows by length")
    axes.set_ylim(bottom=0.0)
    axes.set_xlim(left=0.0)
    axes.legend(frameon=False)
    return figure


def shares_figure(counted: Counts, title: str) -> Figure | None:
    """Share of each split's rows by a value, such as their label; None where there is none."""
    values = _values(counted)
    if not values:
        return None
    height = 0.8 / len(counted)
    figure = Figure(figsize=(10.5, 1.2 + 0.3 * len(values)), layout="constrained")
    axes = figure.subplots()
    for place, (split, counts) in enumerate(counted.items()):
        whole = max(sum(counts.values()), 1)
        shares = [counts.get(value, 0) / whole for value in values]
        lines = [line + place * height for line in range(len(values))]
        axes.barh(lines, shares, height=height * 0.9, align="edge", color=_color(split), label=split)
    middles = [line + 0.4 for line in range(len(values))]
    axes.set_yticks(middles, [value if len(value) <= 28 else f"{value[:27]}…" for value in values], color=COLORS["ink"])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_title(title)
    if len(counted) > 1:
        axes.legend(frameon=False)
    return figure


def _values(counted: Counts) -> list[str]:
    """Values of all splits, the most frequent first."""
    sums: dict[str, int] = {}
    for counts in counted.values():
        for value, count in counts.items():
            sums[value] = sums.get(value, 0) + count
    return sorted(sums, key=lambda value: (-sums[value], value))[:MOST_DRAWN]


def _color(split: str) -> str:
    """A split's colour; of a stage's split, ``<stage>/<split>``, the split's."""
    return _SPLIT_COLORS.get(split.rsplit("/", 1)[-1], COLORS["muted"])
