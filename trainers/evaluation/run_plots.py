"""The report's pictures of how the model came to be: training curves and the sweep."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from luthier.trainers.evaluation.drawing import COLORS, focus, label_line_ends

Points = tuple[list[float], list[float]]

_MIN_POINTS_TO_SMOOTH = 30
"""Of fewer logged steps the curve is shown as it is."""

_MANY_TRIALS = 40
"""Of more trials each line is thinner and fainter."""


def series(history: Sequence[Mapping[str, Any]], name: str) -> Points:
    """Steps and values of a measurement where it was taken and is finite."""
    rows = [row for row in history if isinstance(row.get(name), int | float) and math.isfinite(row[name])]
    return [float(row["step"]) for row in rows], [float(row[name]) for row in rows]


def training_figure(history: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Loss, learning rate and speed over the steps; None where no loss was measured."""
    if not series(history, "loss")[0]:
        return None
    figure = Figure(figsize=(10.5, 3.7), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=(1.9, 1))
    _draw_loss(figure.add_subplot(grid[:, 0]), history)
    for place, (name, title) in enumerate((("learning_rate", "Learning rate"), ("tokens_per_s", "Tokens per second"))):
        axes = figure.add_subplot(grid[place, 1])
        steps, values = series(history, name)
        axes.plot(steps, values, color=COLORS["tuned"], linewidth=1.4)
        axes.set_title(title)
        axes.margins(x=0.02)
        axes.set_ylim(bottom=0.0)
        axes.ticklabel_format(axis="y", scilimits=(-3, 4), useMathText=False)
    figure.axes[-1].set_xlabel("step")
    return figure


def _draw_loss(axes: Axes, history: Sequence[Mapping[str, Any]]) -> None:
    steps, losses = series(history, "loss")
    smooth = losses
    if len(losses) >= _MIN_POINTS_TO_SMOOTH:
        smooth = smoothed(losses)
        axes.plot(steps, losses, color=COLORS["tuned"], alpha=0.28, linewidth=1)
    axes.plot(steps, smooth, color=COLORS["tuned"], linewidth=2)
    ends = [(steps[-1], smooth[-1], "train", COLORS["tuned"])]
    at, validation = series(history, "eval_loss")
    if at:
        axes.plot(at, validation, "o-", color=COLORS["validation"], linewidth=2, markersize=4.5)
        ends.append((at[-1], validation[-1], "validation", COLORS["validation"]))
    low, high = axes.get_ylim()
    label_line_ends(axes, spread(ends, (high - low) * 0.06))
    over_tokens = any("loss_tokens" in row for row in history)
    axes.set(title="Loss (nats per token)" if over_tokens else "Loss", xlabel="step")
    axes.margins(x=0.02)


def smoothed(values: Sequence[float], weight: float = 0.85) -> list[float]:
    """Exponential moving average without the pull of its start (Kingma & Ba 2015, section 3)."""
    average, result = 0.0, []
    for number, value in enumerate(values, start=1):
        average = weight * average + (1.0 - weight) * value
        result.append(average / (1.0 - weight**number))
    return result


def spread(ends: list[tuple[float, float, str, str]], gap: float) -> list[tuple[float, float, str, str]]:
    """The ends with their heights moved up until no two are nearer than ``gap``, so that names don't overlap."""
    placed: list[tuple[float, float, str, str]] = []
    for x, y, name, color in sorted(ends, key=lambda end: end[1]):
        lowest = placed[-1][1] + gap if placed else y
        placed.append((x, max(y, lowest), name, color))
    return placed


def sweep_figure(sweep: Mapping[str, Any]) -> Figure | None:
    """The metric over the steps of every trial, the best one marked; None where no trial was validated."""
    drawn = [(trial, *series(trial.get("history", ()), "value")) for trial in sweep["trials"]]
    drawn = [(trial, steps, values) for trial, steps, values in drawn if steps]
    if not drawn:
        return None
    best = sweep.get("best_trial_id") or next(iter(ranked(sweep)))["trial_id"]
    figure = Figure(figsize=(10.5, 3.2), layout="constrained")
    axes = figure.subplots()
    faint = 1.0 if len(drawn) <= _MANY_TRIALS else 0.5
    for trial, steps, values in sorted(drawn, key=lambda found: found[0]["trial_id"] == best):
        _draw_trial(axes, steps, values, trial, is_best=trial["trial_id"] == best, faint=faint)
    title = f"{sweep['metric'].replace('_', ' ')} of every trial ({sweep['mode']} is better)"
    everything = [value for _, _, values in drawn for value in values]
    low, high = focus(everything, sweep["mode"])
    margin = 0.06 * (high - low)
    if margin and (low, high) != (min(everything), max(everything)):
        axes.set_ylim(low - margin, high + margin)
        title += "; values far worse are cut off"
    axes.set(title=title, xlabel="step")
    axes.margins(x=0.02)
    return figure


def _draw_trial(
    axes: Axes, steps: list[float], values: list[float], trial: Mapping[str, Any], *, is_best: bool, faint: float
) -> None:
    color = COLORS["tuned"] if is_best else COLORS["base"]
    alpha = 1.0 if is_best else 0.7 * faint
    axes.plot(steps, values, color=color, linewidth=2.4 if is_best else 1.2 * faint, alpha=alpha)
    ended = "x" if trial.get("status") in ("stopped", "failed") else "o"
    axes.plot(steps[-1], values[-1], ended, color=color, markersize=5.5 if is_best else 5.5 * faint, alpha=alpha)
    if is_best:
        label_line_ends(axes, [(steps[-1], values[-1], trial["trial_id"], color)])


def ranked(sweep: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Trials, the best first, those without a metric or failed last."""
    sign = -1.0 if sweep["mode"] == "max" else 1.0

    def place(trial: Mapping[str, Any]) -> tuple[bool, float]:
        unranked = trial.get("metric") is None or trial.get("status") == "failed"
        return unranked, 0.0 if unranked else sign * trial["metric"]

    return sorted(sweep["trials"], key=place)
