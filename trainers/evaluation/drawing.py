"""How every plot looks, and how a matplotlib figure becomes SVG that follows the page's light or dark theme.

A plot is drawn with the colours of the light theme. In the SVG each of them is replaced with the CSS variable of its
name, which the page defines for both themes; a PNG keeps the light ones.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLORS = {
    "ink": "#1b1d21",
    "muted": "#6a6f78",
    "line": "#dfe1e5",
    "surface": "#ffffff",
    "base": "#868b94",
    "few_shot": "#c27803",
    "tuned": "#2563c8",
    "incumbent": "#7b4fc3",
    "validation": "#0e8a7d",
    "good": "#18794e",
    "bad": "#c4321f",
}
"""CSS variable to its light value; no two are equal, so that each can be told in the SVG."""

VARIANT_NAMES = {
    "base": "base",
    "few_shot": "few-shot",
    "majority": "majority class",
    "tuned": "tuned",
    "incumbent": "incumbent",
}
"""What the report calls a variant."""

_METRIC_NAMES = {
    "rouge_1": "ROUGE-1",
    "rouge_2": "ROUGE-2",
    "rouge_l": "ROUGE-L",
    "bleu": "BLEU",
    "chrf": "chrF",
    "ece": "ECE",
    "brier": "Brier score",
    "brier_answered": "Brier score of the answer",
    "json_valid": "JSON valid",
    "json_schema_valid": "JSON fits schema",
}

_STYLE = {
    "axes.edgecolor": COLORS["line"],
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.labelcolor": COLORS["muted"],
    "axes.labelsize": 9,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": COLORS["ink"],
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "figure.facecolor": "none",
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "grid.color": COLORS["line"],
    "grid.linewidth": 0.6,
    "lines.solid_capstyle": "round",
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
    "svg.hashsalt": "luthier",
    "text.color": COLORS["ink"],
    "text.parse_math": False,
    "xtick.color": COLORS["line"],
    "xtick.labelcolor": COLORS["muted"],
    "ytick.color": COLORS["line"],
    "ytick.labelcolor": COLORS["muted"],
    "ytick.major.size": 0,
}


def metric_name(metric: str) -> str:
    """What the report calls a metric."""
    if metric.startswith("eval_"):
        return f"eval {metric_name(metric.removeprefix('eval_'))}"
    return _METRIC_NAMES.get(metric) or metric.replace("_", " ").replace("f1", "F1")


@contextmanager
def style() -> Iterator[None]:
    """Matplotlib's settings for drawing and saving, for the length of the block."""
    with mpl.rc_context(_STYLE):
        yield


def color_of(variant: str) -> str:
    """A variant's colour, the same in every plot."""
    return COLORS.get(variant, COLORS["muted"])


def label_line_ends(axes: Axes, ends: list[tuple[float, float, str, str]]) -> None:
    """Write each line's name beside its last point, in place of a legend.

    Args:
        axes: Where.
        ends: x, y, name and colour of each line.
    """
    for x, y, name, color in ends:
        axes.annotate(
            name, (x, y), xytext=(6, 0), textcoords="offset points", va="center", color=color, annotation_clip=False
        )


def focus(values: Sequence[float], mode: Literal["min", "max"]) -> tuple[float, float]:
    """The range of values worth showing: all of them but those far out at the worse end.

    Far out is beyond three times the distance of the quartiles (Tukey 1977), as the loss of a trial that diverged.

    Args:
        values: At least one.
        mode: Whether less or more is better.

    Returns:
        Low and high, both values that occur.
    """
    first, third = np.quantile(values, (0.25, 0.75))
    reach = 3.0 * (third - first)
    near = [v for v in values if (v <= third + reach if mode == "min" else v >= first - reach)]
    return min(near), max(near)


def to_svg(figure: Figure) -> Markup:
    """The figure as an inline SVG element; equal figures give equal text. Call it within :func:`style`."""
    stream = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(stream, format="svg", bbox_inches="tight", pad_inches=0.04, metadata=nothing)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # Namespaces are implied in HTML, the size comes from the page, and running ids would repeat between plots.
    text = re.sub(r'\s(?:xmlns(?::xlink)?|version)="[^"]*"', "", text)
    text = re.sub(r'(<svg[^>]*?)\swidth="[^"]*"', r"\1", text)
    text = re.sub(r'(<svg[^>]*?)\sheight="[^"]*"', r"\1", text)
    text = re.sub(r'<g id="[A-Za-z_.]+\d+">', "<g>", text)
    text = text.replace("xlink:href=", "href=").replace("'DejaVu Sans'", "system-ui, sans-serif")
    for name, value in COLORS.items():
        text = text.replace(value, f"var(--{name.replace('_', '-')})")
    return Markup(text)
