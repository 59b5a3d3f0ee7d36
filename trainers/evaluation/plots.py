"""The report's pictures of an evaluation: the comparison of variants and the confusion matrix."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from luthier.digests import atomic_write_bytes
from luthier.errors import DataError
from luthier.evaluation_schema import JSON_METRICS, OTHER, TEXT_METRICS, Evaluation, metric_names
from luthier.trainers.evaluation.drawing import COLORS, VARIANT_NAMES, color_of, metric_name, style

MAX_DRAWN_LABELS = 40
"""A matrix of more labels can't be read on a page."""

_DRAWN = (
    "accuracy", "micro_f1", "precision_macro", "recall_macro", "macro_f1", "weighted_f1", *TEXT_METRICS, *JSON_METRICS,
)  # fmt: skip
"""Of the averages the telling ones; the table has all."""

_MAX_NUMBERED_LABELS = 20
_DPI = 160


def comparison_figure(evaluation: Evaluation) -> Figure | None:
    """Every metric between 0 and 1: the variants' intervals at the left, the paired gains at the right.

    None where there is none, as of plain text, which has but a perplexity.
    """
    names = list(evaluation.variants)
    measured = metric_names(variant.metrics for variant in evaluation.variants.values())
    metrics = [metric for metric in _DRAWN if metric in measured]
    if not metrics:
        return None
    figure = Figure(figsize=(10.5, 0.9 + 0.17 * len(metrics) * (len(names) + 0.8)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.35, 1))
    _draw_values(left, evaluation, metrics, names)
    _draw_gains(right, evaluation, metrics)
    left.set_yticks(range(len(metrics)), list(map(metric_name, metrics)), color=COLORS["ink"])
    left.set_ylim(len(metrics) - 0.45, -0.55)
    return figure


def _offsets(count: int) -> list[float]:
    """Vertical places of a metric's marks around its line."""
    return [(index - (count - 1) / 2) * 0.72 / max(count, 2) for index in range(count)]


def _draw_values(axes: Axes, evaluation: Evaluation, metrics: list[str], names: list[str]) -> None:
    for name, offset in zip(names, _offsets(len(names)), strict=True):
        color, label = color_of(name), VARIANT_NAMES.get(name, name)
        for row, metric in enumerate(metrics):
            found = evaluation.variants[name].metrics.get(metric)
            if found is None:
                continue
            axes.plot([found.low, found.high], [row + offset] * 2, color=color, linewidth=2)
            axes.plot(found.value, row + offset, "o", color=color, markersize=5.5, label=None if row else label)
    axes.set_title(f"Value with {evaluation.confidence:.0%} interval", pad=26)
    axes.set_xlim(-0.02, 1.02)
    axes.grid(visible=False, axis="y")
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=len(names), frameon=False, handletextpad=0.1, borderpad=0
    )


def _draw_gains(axes: Axes, evaluation: Evaluation, metrics: list[str]) -> None:
    pairs = list(evaluation.differences.items())
    for (pair, by_metric), offset in zip(pairs, _offsets(len(pairs)), strict=True):
        other = pair.split("-", 1)[1]
        for row, metric in enumerate(metrics):
            found = by_metric.get(metric)
            if found is None:
                continue
            axes.plot([found.low, found.high], [row + offset] * 2, color=color_of(other), linewidth=2)
            label = None if row else f"over {VARIANT_NAMES.get(other, other)}"
            axes.plot(found.value, row + offset, "D", color=color_of(other), markersize=5, label=label)
    axes.axvline(0.0, color=COLORS["ink"], linewidth=0.9)
    axes.set_title("Gain of tuned, paired by row", pad=26)
    axes.grid(visible=False, axis="y")
    if pairs:
        axes.legend(
            loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=3, frameon=False, handletextpad=0.1, borderpad=0
        )


def confusion_figure(evaluation: Evaluation, variant: str) -> Figure:
    """True labels by answered labels; a cell's shade is its share of the true label's rows, its number the count."""
    labels, matrix = evaluation.labels, evaluation.variants[variant].confusion
    size = min(2.1 + 0.42 * len(labels), 18.0)
    figure = Figure(figsize=(size + 0.4, size), layout="constrained")
    axes = figure.subplots()
    for row, counts in enumerate(matrix):
        for column, count in enumerate(counts):
            if count:
                _draw_cell(axes, row, column, count, count / sum(counts), numbered=len(labels) <= _MAX_NUMBERED_LABELS)
    axes.set_xlim(-0.5, len(labels) + 0.5)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_aspect("equal")
    axes.grid(visible=False)
    axes.axvline(len(labels) - 0.5, color=COLORS["line"], linewidth=1)
    names = list(map(_short, labels))
    axes.set_xticks(range(len(labels) + 1), [*names, OTHER], rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(labels)), names)
    axes.tick_params(length=0)
    axes.set(xlabel="answered", ylabel="true", title=VARIANT_NAMES.get(variant, variant))
    return figure


def _draw_cell(axes: Axes, row: int, column: int, count: int, share: float, *, numbered: bool) -> None:
    hue = COLORS["tuned"] if row == column else COLORS["bad"]
    axes.add_patch(
        Rectangle((column - 0.47, row - 0.47), 0.94, 0.94, facecolor=hue, alpha=0.08 + 0.92 * share, linewidth=0)
    )
    if numbered:
        color = COLORS["surface"] if share > 0.72 else COLORS["ink"]
        axes.text(column, row, str(count), ha="center", va="center", color=color, fontsize=8)


def _short(label: str, limit: int = 18) -> str:
    """A label that fits beside the matrix."""
    return label if len(label) <= limit else label[: limit - 1] + "…"


def write_confusion_png(path: Path, evaluation: Evaluation, variant: str) -> None:
    """Write a variant's confusion matrix as a picture, with the light theme's colours.

    Args:
        path: The file to write or replace.
        evaluation: Of labelled data.
        variant: For instance ``tuned``.

    Raises:
        DataError: The data has no labels, or there is no such variant.
    """
    if not evaluation.labels:
        raise DataError("the data has no labels, so there is no confusion matrix to draw.")
    if variant not in evaluation.variants:
        known = ", ".join(evaluation.variants)
        raise DataError(f"the evaluation has no variant {variant!r}; it has {known}.")
    picture = io.BytesIO()
    with style():
        figure = confusion_figure(evaluation, variant)
        figure.savefig(picture, format="png", dpi=_DPI, facecolor=COLORS["surface"], metadata={"Software": None})
    atomic_write_bytes(path, picture.getvalue())
