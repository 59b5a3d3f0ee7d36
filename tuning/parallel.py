"""The parallel coordinates of a sweep: one axis per hyperparameter, one line per trial, coloured by the metric."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from luthier.sweep_schema import SweepResult, TrialResult
from luthier.trainers.evaluation.drawing import COLORS, focus
from luthier.tuning.analysis import as_json, is_numeric, is_sound, spreads
from luthier.tuning.wording import distinct_texts, params_of, short_names

MAX_AXES = 9
"""Hyperparameters that fit beside each other; of more, the most important ones are drawn."""

_WIDTH_IN = 10.5
_CHAR_IN = 0.072  # a character's mean width at the size of the labels
_MISSING = -0.17  # height of the lane for values that a trial does not have; the axes go from 0 to 1
_TICK_GAP = 0.055  # labels nearer than this would overlap
_FEW_VALUES = 8  # so many different numbers have a tick each
_MANY_TRIALS = 40
_COLORMAP = LinearSegmentedColormap.from_list("sweep", [COLORS["few_shot"], "#a99a3a", COLORS["validation"]])
"""The worst trial to the best."""


@dataclass(frozen=True)
class Axis:
    """One upright axis."""

    name: str
    places: Mapping[str, float]
    """Trial to its height, from 0 to 1; trials without a value are missing."""

    ticks: Sequence[tuple[float, str]]
    """Height and label, upwards, none too near another."""

    is_log: bool = False
    missing: str = "not set"
    """What it means that a trial has no value."""


def parallel_figure(result: SweepResult, importances: Mapping[str, float]) -> Figure | None:
    """Every trial's values and where they led.

    Numbers are on a log axis where they spread over more than a decade; other values are spaced evenly. Trials without
    a sound metric are dashed, the winner is on top.

    Args:
        result: The sweep.
        importances: Share of each parameter; decides which are drawn where there are too many.

    Returns:
        The figure; None where no trial has parameters.
    """
    paths = shown_params(result, importances)
    if not paths:
        return None
    names = short_names(params_of(result.trials))
    chars = int(_WIDTH_IN / (len(paths) + 1) * 0.8 / _CHAR_IN)
    axes_of = [_param_axis(names[path], path, result.trials, chars) for path in paths]
    goal = metric_axis(result)
    titles = [_title(axis, chars) for axis in (*axes_of, goal)]
    tallest = max(title.count("\n") for title in titles)
    figure = Figure(figsize=(_WIDTH_IN, 4.1 + 0.15 * tallest), layout="constrained")
    axes = figure.subplots()
    _draw_lines(axes, result, [*axes_of, goal], goal)
    for number, (axis, title) in enumerate(zip((*axes_of, goal), titles, strict=True)):
        axes.text(number, 1.09, title, ha="center", va="bottom", fontsize=8.5, fontweight="bold")
        _draw_axis(axes, number, axis, {trial.trial_id for trial in result.trials}, is_last=axis is goal)
    _draw_gradient(axes, len(axes_of))
    axes.set_axis_off()
    axes.set_xlim(-0.1, len(axes_of) + 0.12)
    return figure


def shown_params(result: SweepResult, importances: Mapping[str, float]) -> list[str]:
    """The parameters that get an axis, in the order drawn."""
    paths = params_of(result.trials)
    kept = sorted(paths, key=lambda path: -importances.get(path, 0.0))[:MAX_AXES]
    return [path for path in paths if path in kept]


def metric_axis(result: SweepResult) -> Axis:
    """The metric's axis, the best value at 1; values far worse than the others lie at 0."""
    sound = {trial.trial_id: trial.metric for trial in result.trials if is_sound(trial) and trial.metric is not None}
    missing = "failed" if all(t.status == "failed" for t in result.trials if t.trial_id not in sound) else "no value"
    name = result.metric.replace("_", " ")
    if not sound:
        return Axis(name, {}, (), missing=missing)
    low, high = focus(list(sound.values()), result.mode)
    worst, best = (high, low) if result.mode == "min" else (low, high)

    def height(value: float) -> float:
        return min(max((value - worst) / (best - worst), 0.0), 1.0) if best != worst else 1.0

    ticks = [(height(value), f"{value:.4g}") for value in MaxNLocator(5).tick_values(low, high) if low <= value <= high]
    ticks = sorted(ticks) if best != worst else [(1.0, f"{best:.4g}")]
    if (min(sound.values()), max(sound.values())) != (low, high):
        sign = "≥" if result.mode == "min" else "≤"
        ticks = [(0.0, f"{sign} {worst:.4g}"), *ticks]
    return Axis(name, {i: height(value) for i, value in sound.items()}, _apart(ticks), missing=missing)


def _param_axis(name: str, path: str, trials: Sequence[TrialResult], chars: int) -> Axis:
    values = {trial.trial_id: trial.params[path] for trial in trials if path in trial.params}
    if is_numeric(list(values.values())):
        return _numeric_axis(name, values)
    return _categorical_axis(name, values, chars)


def _numeric_axis(name: str, values: Mapping[str, float]) -> Axis:
    distinct = sorted(set(values.values()))
    low, high = distinct[0], distinct[-1]
    is_log = spreads(distinct)
    scale = math.log if is_log else float

    def height(value: float) -> float:
        return (scale(value) - scale(low)) / (scale(high) - scale(low)) if high > low else 0.5

    places = {trial_id: height(value) for trial_id, value in values.items()}
    if len(distinct) <= _FEW_VALUES:
        return Axis(name, _side_by_side(places), _apart([(height(mark), f"{mark:.3g}") for mark in distinct]), is_log)
    whole = all(isinstance(value, int) for value in distinct)
    marks = (LogLocator(numticks=6) if is_log else MaxNLocator(5, integer=whole)).tick_values(low, high)
    if sum(low <= mark <= high for mark in marks) < 2:
        marks = (low, high)
    return Axis(name, places, _apart([(height(m), f"{m:.3g}") for m in marks if low <= m <= high]), is_log)


def _categorical_axis(name: str, values: Mapping[str, Any], chars: int) -> Axis:
    texts = distinct_texts(values.values(), chars)
    keys = sorted(texts, reverse=True)
    heights = {key: place / (len(keys) - 1) if len(keys) > 1 else 0.5 for place, key in enumerate(keys)}
    places = {trial_id: heights[as_json(value)] for trial_id, value in values.items()}
    return Axis(name, _side_by_side(places), _apart([(heights[key], texts[key]) for key in keys]))


def _side_by_side(places: Mapping[str, float]) -> dict[str, float]:
    """The places a little apart where many trials share one, or lines of equal values would hide each other."""
    members: dict[float, list[str]] = {}
    for trial_id, place in places.items():
        members.setdefault(place, []).append(trial_id)
    heights = sorted(members)
    gap = min((above - below for below, above in itertools.pairwise(heights)), default=1.0)
    spread = {}
    for height, ids in members.items():
        width = min(0.2 * gap, 0.05, 0.004 * (len(ids) - 1))
        for number, trial_id in enumerate(ids):
            spread[trial_id] = height + width * (2 * (number + 0.5) / len(ids) - 1)
    return spread


def _apart(ticks: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    kept: list[tuple[float, str]] = []
    for tick in ticks:
        if not kept or tick[0] - kept[-1][0] >= _TICK_GAP:
            kept.append(tick)
    return kept


def _draw_lines(axes: Axes, result: SweepResult, drawn: Sequence[Axis], goal: Axis) -> None:
    faint = 0.75 if len(result.trials) <= _MANY_TRIALS else 0.4
    # The best are drawn last, the winner after them.
    order = sorted(result.trials, key=lambda t: (t.trial_id == result.best_trial_id, goal.places.get(t.trial_id, -1.0)))
    for trial in order:
        heights = [axis.places.get(trial.trial_id, _MISSING) for axis in drawn]
        at = range(len(drawn))
        if trial.trial_id == result.best_trial_id:
            axes.plot(at, heights, color=COLORS["tuned"], linewidth=3.0, marker="o", markersize=5, zorder=3)
        elif trial.trial_id in goal.places:
            axes.plot(at, heights, color=_COLORMAP(goal.places[trial.trial_id]), linewidth=1.4, alpha=faint)
        else:
            axes.plot(at, heights, color=COLORS["base"], linewidth=1.0, linestyle=(0, (4, 3)), alpha=faint)


def _title(axis: Axis, chars: int) -> str:
    """The axis's name, broken after dots and underscores to about ``chars`` per line."""
    lines = textwrap.wrap(axis.name.replace("_", "_ ").replace(".", ". "), max(chars, 8))
    name = "\n".join(line.replace("_ ", "_").replace(". ", ".") for line in lines)
    if not axis.is_log:
        return name
    return f"{name} (log)" if len(lines) == 1 and len(name) + 6 <= chars else f"{name}\n(log)"


def _draw_axis(axes: Axes, number: int, axis: Axis, trial_ids: set[str], *, is_last: bool) -> None:
    axes.plot([number, number], [0, 1], color=COLORS["muted"], linewidth=1.0, zorder=2)
    missing = [] if trial_ids <= set(axis.places) else [(_MISSING, axis.missing)]
    for height, label in (*missing, *axis.ticks):
        axes.plot(number, height, "_", color=COLORS["muted"], markersize=6, zorder=2)
        axes.annotate(
            label,
            (number, height),
            xytext=(7, 0) if is_last else (4, 2),  # above a line that goes on level
            textcoords="offset points",
            va="center" if is_last else "bottom",
            fontsize=7.5,
            color=COLORS["muted"] if height == _MISSING else COLORS["ink"],
            zorder=4,
            bbox={"facecolor": COLORS["surface"], "edgecolor": "none", "alpha": 0.7, "pad": 0.3},
        )


def _draw_gradient(axes: Axes, number: int) -> None:
    """The metric's axis in the colours of the lines, in place of a colour bar."""
    parts = 40
    for part in range(parts):
        axes.plot(
            [number, number],
            [part / parts, min((part + 1.3) / parts, 1.0)],  # no seams
            color=_COLORMAP((part + 0.5) / parts),
            linewidth=5,
            solid_capstyle="butt",
            zorder=2.5,
        )
