"""One run's results as a single HTML file that loads nothing and runs no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment

from luthier.evaluation_schema import LOWER_IS_BETTER, Evaluation, Interval, metric_names
from luthier.gate import GateDecision
from luthier.manifest import Manifest
from luthier.trainers.evaluation import plots, run_plots
from luthier.trainers.evaluation.drawing import VARIANT_NAMES, style, to_svg
from luthier.trainers.evaluation.examples import RIVALS, changed_rows
from luthier.trainers.evaluation.page import figure_text, page_environment, svg_or_none
from luthier.trainers.evaluation.reliability import reliability_figure

_FEW_ROWS = 100
"""Below this the report warns that percentile intervals come out too narrow."""

_FEW_IN_SLICE = 30
"""A slice of fewer rows is marked: its intervals are wide and come out too narrow at that."""


def render_report(
    *,
    title: str,
    evaluation: Evaluation,
    history: Sequence[Mapping[str, Any]] = (),
    sweep: Mapping[str, Any] | None = None,
    timings: Mapping[str, float] | None = None,
    manifest: Manifest | None = None,
    gate: GateDecision | None = None,
    config_yaml: str = "",
    examples: Sequence[Mapping[str, Any]] = (),
    parity: Mapping[str, Any] | None = None,
    endpoint: Mapping[str, Any] | None = None,
    stages: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The report as a page of HTML; what is not given is left out.

    Args:
        title: Heading, usually the run's name.
        evaluation: The test split's figures.
        history: Rows of the metrics stream: ``step``, ``epoch``, ``loss``, ``eval_loss``, ``tokens_per_s``,
            ``learning_rate``.
        sweep: A :class:`~luthier.sweep_schema.SweepResult` as plain data.
        timings: Seconds by stage, in their order.
        manifest: The trained artifact's.
        gate: The decision on it.
        config_yaml: The resolved config.
        examples: Rows with ``row_id``, ``text``, ``label`` and an answer for each variant.
        parity: Counts ``same``, ``near-tie`` and ``mismatch``, and the ``tolerance``: in nats, or of probabilities where it
            is ``of`` ``scores``.
        endpoint: ``base_url``, ``models``, ``question``, ``answer``, ``first_token_s``, ``total_s``.
        stages: Of each stage of training its ``name``, ``losses`` by task, and what was ``forgotten``.
    """
    variants = evaluation.variants
    with style():
        pictures = _pictures(evaluation, history, sweep)
    return (
        _environment()
        .get_template("report.html.jinja")
        .render(
            title=title,
            evaluation=evaluation,
            headline=_headline_metric(evaluation, gate),
            metrics=metric_names(variant.metrics for variant in variants.values()),
            figures=list(dict.fromkeys(name for variant in variants.values() for name in variant.figures)),
            calibrated=[name for name, variant in variants.items() if variant.calibration],
            pictures=pictures,
            speed=_median(run_plots.series(history, "tokens_per_s")[1]),
            sweep=sweep,
            trials=run_plots.ranked(sweep) if sweep else [],
            timings=dict(timings or {}),
            manifest=manifest,
            gate=gate,
            config_yaml=config_yaml,
            examples={
                rival: groups
                for rival in RIVALS
                if (groups := changed_rows(examples, labelled=bool(evaluation.labels), rival=rival))
            },
            few_in_slice=_FEW_IN_SLICE,
            parity=parity,
            endpoint=endpoint,
            stages=stages,
            few_rows=_FEW_ROWS,
            max_drawn_labels=plots.MAX_DRAWN_LABELS,
        )
    )


def _pictures(
    evaluation: Evaluation, history: Sequence[Mapping[str, Any]], sweep: Mapping[str, Any] | None
) -> dict[str, Any]:
    matrices = {}
    if 0 < len(evaluation.labels) <= plots.MAX_DRAWN_LABELS:
        shown = [name for name in ("tuned", "base") if name in evaluation.variants]
        matrices = {name: to_svg(plots.confusion_figure(evaluation, name)) for name in shown}
    return {
        "comparison": svg_or_none(plots.comparison_figure(evaluation)),
        "reliability": svg_or_none(reliability_figure(evaluation)),
        "training": svg_or_none(run_plots.training_figure(history)),
        "sweep": svg_or_none(run_plots.sweep_figure(sweep)) if sweep else None,
        "confusion": matrices,
    }


def _headline_metric(evaluation: Evaluation, gate: GateDecision | None) -> str:
    """The gate's metric, or the most telling one that there is."""
    known = next(iter(evaluation.variants.values())).metrics
    wished = (gate.metric if gate else None, "macro_f1", "rouge_l")
    return next(metric for metric in (*wished, *known) if metric in known)


def _median(values: Sequence[float]) -> float | None:
    return sorted(values)[len(values) // 2] if values else None


def _environment() -> Environment:
    environment = page_environment()
    environment.filters |= {
        "gain": _gain,
        "verdict": _verdict,
        "metric_names": metric_names,
        "day": lambda created_at: created_at[:16].replace("T", " ") + " UTC",
        "variant_name": lambda name: VARIANT_NAMES.get(name, name),
        "css": lambda name: name.replace("_", "-") if name in VARIANT_NAMES else "muted",
    }
    return environment


def _gain(value: float) -> str:
    """A difference with its sign."""
    return ("+" if value >= 0 else "\N{MINUS SIGN}") + figure_text(abs(value))


def _verdict(difference: Interval, metric: str) -> str:
    """Whether a difference is ``better``, ``worse`` or ``unclear`` by its interval."""
    if difference.low <= 0.0 <= difference.high:
        return "unclear"
    return "better" if (difference.low > 0.0) != (metric in LOWER_IS_BETTER) else "worse"
