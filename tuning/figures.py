"""The sweep report's other pictures: cost against quality, metrics against each other, seeds, agreement of rungs."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from luthier.sweep_schema import Aim, SweepResult, TrialResult
from luthier.trainers.evaluation.drawing import COLORS, focus, metric_name
from luthier.tuning.analysis import is_sound, spreads
from luthier.tuning.wording import WEAK_AGREEMENT, charged_resource

_MAX_RIVALS = 2
"""Metrics that are drawn against the deciding one."""

_MANY_TRIALS = 60
_STATUS_COLORS = {"finished": COLORS["base"], "stopped": COLORS["few_shot"]}


def cost_figure(result: SweepResult) -> Figure | None:
    """What each trial cost against what it reached, and the metric against the others with the Pareto front.

    None where no trial has a sound value.
    """
    sound = [trial for trial in result.trials if is_sound(trial)]
    if not sound:
        return None
    rivals = [aim for aim in result.more_metrics if any(aim.metric in trial.metrics for trial in sound)][:_MAX_RIVALS]
    figure = Figure(figsize=(10.5, 3.5), layout="constrained")
    panels = figure.subplots(1, 1 + len(rivals), squeeze=False)[0]
    _draw_cost(panels[0], result, sound)
    for panel, aim in zip(panels[1:], rivals, strict=True):
        _draw_front(panel, result, [trial for trial in sound if aim.metric in trial.metrics], aim)
    return figure


def _draw_cost(axes: Axes, result: SweepResult, trials: Sequence[TrialResult]) -> None:
    resource = charged_resource(trials)
    costs = {t.trial_id: t.held.get(resource, 0.0) if resource else t.wall_s for t in trials}
    for status, color in _STATUS_COLORS.items():
        of_status = [t for t in trials if t.status == status and t.trial_id != result.best_trial_id]
        _scatter(axes, [(costs[t.trial_id], t.metric or 0.0) for t in of_status], color, status, len(trials))
    _mark_winner(axes, costs[result.best_trial_id], result)
    unit = f"{resource}-seconds held" if resource else "seconds"
    axes.set(title=f"Cost and {metric_name(result.metric)}", xlabel=unit, ylabel=_label(result.metric, result.mode))
    if spreads(list(costs.values())):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(6))
    _focus_axis(axes, "y", [t.metric or 0.0 for t in trials], result.mode)
    _legend(axes)


def _draw_front(axes: Axes, result: SweepResult, trials: Sequence[TrialResult], aim: Aim) -> None:
    points = {t.trial_id: (t.metrics[aim.metric], t.metric or 0.0) for t in trials}
    others = [xy for trial_id, xy in points.items() if trial_id not in result.pareto]
    front = sorted(points[trial_id] for trial_id in result.pareto if trial_id in points)
    _scatter(axes, others, COLORS["base"], "not on the front" if front else "trials", len(trials))
    if front:
        # With more than two metrics the front is not a line in the plane of two.
        line = "-" if len(result.more_metrics) == 1 else ""
        axes.plot(*zip(*front, strict=True), f"o{line}", color=COLORS["validation"], markersize=6, label="Pareto front")
    if result.best_trial_id in points:
        _mark_winner(axes, points[result.best_trial_id][0], result)
    axes.set(
        title=f"{metric_name(aim.metric)} and {metric_name(result.metric)}",
        xlabel=_label(aim.metric, aim.mode),
        ylabel=_label(result.metric, result.mode),
    )
    _focus_axis(axes, "y", [y for _, y in points.values()], result.mode)
    _focus_axis(axes, "x", [x for x, _ in points.values()], aim.mode)
    _legend(axes)


def _scatter(axes: Axes, points: Sequence[tuple[float, float]], color: str, label: str, num_trials: int) -> None:
    if points:
        many = num_trials > _MANY_TRIALS
        axes.plot(
            *zip(*points, strict=True),
            "o",
            color=color,
            markersize=4 if many else 6,
            alpha=0.6 if many else 0.9,
            markeredgewidth=0,
            label=label,
        )


def _mark_winner(axes: Axes, x: float, result: SweepResult) -> None:
    axes.plot(
        x,
        result.best.metric or 0.0,
        "D",
        color=COLORS["tuned"],
        markersize=7.5,
        label=f"winner, {result.best_trial_id}",
        zorder=4,
    )


def _label(metric: str, mode: str) -> str:
    return textwrap.fill(f"{metric_name(metric)} ({mode} is better)", 34)


def _focus_axis(axes: Axes, which: Literal["x", "y"], values: Sequence[float], mode: Literal["min", "max"]) -> None:
    """Cut off values far worse than the others, and say so."""
    low, high = focus(values, mode)
    cut = sum(not low <= value <= high for value in values)
    margin = 0.08 * (high - low)
    if not cut or not margin:
        return
    axes.set(**{f"{which}lim": (low - margin, high + margin)})
    label = getattr(axes, f"get_{which}label")()
    axes.set(**{f"{which}label": f"{label}\n{cut} far worse not shown"})


def _legend(axes: Axes) -> None:
    axes.set_title(axes.get_title(loc="left"), pad=24)
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.0),
        ncols=3,
        frameon=False,
        handletextpad=0.1,
        columnspacing=1.0,
        borderpad=0,
        fontsize=8,
    )


def seeds_figure(result: SweepResult) -> Figure | None:
    """The finalists' values by seed, their means and intervals; None where no seeds were asked for."""
    finalists = result.finalists
    if not finalists:
        return None
    figure = Figure(figsize=(5.2, 1.1 + 0.42 * len(finalists)), layout="constrained")
    axes = figure.subplots()
    for row, finalist in enumerate(finalists):
        color = COLORS["tuned"] if finalist.trial_id == result.best_trial_id else COLORS["base"]
        if len(finalist.values) > 1:
            axes.plot([finalist.low, finalist.high], [row, row], color=color, linewidth=2)
        axes.plot(finalist.values, [row] * len(finalist.values), "|", color=COLORS["ink"], markersize=11)
        axes.plot(finalist.mean, row, "D", color=color, markersize=6)
    axes.set_yticks(range(len(finalists)), [finalist.trial_id for finalist in finalists], color=COLORS["ink"])
    axes.set_ylim(len(finalists) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set(title="Finalists over seeds", xlabel=_label(result.metric, result.mode))
    return figure


def agreement_figure(result: SweepResult) -> Figure | None:
    """Rank correlation of each validation with the last; None where it is known at fewer than two."""
    known = [(found.validation, found.spearman) for found in result.rung_agreement if found.spearman is not None]
    if len(known) < 2:
        return None
    figure = Figure(figsize=(5.2, 2.6), layout="constrained")
    axes = figure.subplots()
    axes.axhline(WEAK_AGREEMENT, color=COLORS["bad"], linewidth=1.0, linestyle=(0, (4, 3)))
    axes.plot(*zip(*known, strict=True), "o-", color=COLORS["tuned"], linewidth=2, markersize=4.5)
    axes.set(title="Agreement with the final order (Spearman)", xlabel="validation")
    axes.set_ylim(min(-0.05, *(value - 0.1 for _, value in known)), 1.05)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    return figure
