"""The reliability diagram: how often models are right by how sure they are (Niculescu-Mizil & Caruana 2005)."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from luthier.evaluation_parts import Calibration
from luthier.evaluation_schema import Evaluation
from luthier.trainers.evaluation.drawing import COLORS, VARIANT_NAMES, color_of

_SHOWN = ("base", "tuned", "incumbent")
_LEAST_AREA, _MOST_AREA = 12.0, 160.0
"""Of a dot, in square points."""


def reliability_figure(evaluation: Evaluation) -> Figure | None:
    """Share of right answers over the mean probability of each bin; None where no variant's probabilities are known."""
    known = {name: variant.calibration for name, variant in evaluation.variants.items() if variant.calibration}
    drawn = {name: known[name] for name in _SHOWN if name in known} or known
    if not drawn:
        return None
    figure = Figure(figsize=(5.6, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=COLORS["muted"], linewidth=1, linestyle=(0, (4, 3)))
    for name, calibration in drawn.items():
        _draw(axes, name, calibration)
    axes.set(
        xlabel="probability of the answer", ylabel="share of right answers", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03)
    )
    axes.set_title("Reliability", pad=26)
    axes.set_aspect("equal")
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=len(drawn), frameon=False, borderpad=0)
    return figure


def _draw(axes: Axes, name: str, calibration: Calibration) -> None:
    bins = [one for one in calibration.bins if one.n]
    most = max(one.n for one in bins)
    sure, right = [one.confidence for one in bins], [one.accuracy for one in bins]
    axes.plot(sure, right, color=color_of(name), linewidth=1.4, alpha=0.7)
    areas = [_LEAST_AREA + (_MOST_AREA - _LEAST_AREA) * one.n / most for one in bins]
    axes.scatter(
        sure, right, s=areas, color=color_of(name), alpha=0.85, linewidths=0, label=VARIANT_NAMES.get(name, name)
    )
