"""The stage that judges: the test split answered by every variant, scored, and put before the gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.config import RunConfig
from luthier.preflight import class_labels
from luthier.view import View

if TYPE_CHECKING:
    from luthier.evaluation_schema import Evaluation, Interval
    from luthier.gate import GateDecision
    from luthier.registry import ModelVersion
    from luthier.rows import Row
    from luthier.trainers.answering import Variant
    from luthier.trainers.generate import Scored


@dataclass(frozen=True)
class Judgement:
    """The test split's verdict.

    Attributes:
        evaluation: Metrics with intervals.
        decision: What the gate says.
        scored: Every variant's answers, in the order of ``rows``.
        rows: The rows that were asked, as plain data for the report.
    """

    evaluation: Evaluation
    decision: GateDecision
    scored: dict[str, list[Scored]]
    rows: tuple[dict[str, Any], ...]


def judge(
    cfg: RunConfig, base_model_dir: Path, artifact_dir: Path, incumbent: ModelVersion | None, view: View
) -> Judgement:
    """Answer the test split with every variant, score, and ask the gate.

    Args:
        cfg: The configuration.
        base_model_dir: The prepared base model.
        artifact_dir: The candidate.
        incumbent: Compared too, unless it is the very candidate.
        view: Shows what happens.
    """
    from luthier.gate import decide
    from luthier.limits import size_check
    from luthier.manifest import load_manifest
    from luthier.trainers.answering import answer_all, variants_for
    from luthier.trainers.doctor.redact import redacted
    from luthier.trainers.files import evaluation_rows

    with view.stage("evaluate", "Evaluating on the test split"):
        rows = redacted(evaluation_rows(cfg), cfg.data.redact)
        variants = variants_for(cfg, artifact_dir, _rival(cfg, artifact_dir, incumbent))
        scored = answer_all(cfg, variants, rows, base_model_dir, view.on_answers)
        evaluation = _score(cfg, variants, scored, rows)
        decision = decide(evaluation, cfg.gate).also([size_check(load_manifest(artifact_dir), cfg.gate)])
        view.note(comparison_table(evaluation))
        for name in evaluation.tasks:
            view.note(task_table(evaluation, name))
    facts = tuple({"row_id": row.row_id, "text": row.question, "label": row.answer} for row in rows)
    return Judgement(evaluation, decision, scored, facts)


def _rival(cfg: RunConfig, artifact_dir: Path, incumbent: ModelVersion | None) -> Path | None:
    """The incumbent's files; None where it has the candidate's content, so that there is nothing to compare."""
    from luthier.manifest import load_manifest
    from luthier.registry import Registry

    if incumbent is None or incumbent.manifest.content == load_manifest(artifact_dir).content:
        return None
    return Registry(cfg.registry.uri, cfg.registry.alias).fetch(incumbent.ref)


def _score(
    cfg: RunConfig, variants: Sequence[Variant], scored: Mapping[str, list[Scored]], rows: Sequence[Row]
) -> Evaluation:
    """All test rows together, and those of each dataset by themselves where there are several."""
    from luthier.evaluation_schema import TaskScores

    evaluation = _score_rows(cfg, variants, scored, rows, range(len(rows)))
    names = list(dict.fromkeys(row.dataset for row in rows))
    tasks: dict[str, TaskScores] = {}
    for name in names if len(names) > 1 else ():
        places = [place for place, row in enumerate(rows) if row.dataset == name]
        if len(places) > 1:  # an interval takes two rows
            alone = _score_rows(cfg, variants, scored, rows, places)
            tasks[name] = TaskScores(n=alone.n, variants={one: found.metrics for one, found in alone.variants.items()})
    return evaluation.model_copy(update={"tasks": tasks})


def _score_rows(
    cfg: RunConfig,
    variants: Sequence[Variant],
    scored: Mapping[str, list[Scored]],
    rows: Sequence[Row],
    places: Sequence[int],
) -> Evaluation:
    """The rows at some places, answered by every variant."""
    from luthier.trainers.evaluation import Prediction, score

    predictions = {
        variant.name: [
            Prediction(
                row_id=rows[place].row_id,
                label=rows[place].label or rows[place].answer,
                answer=scored[variant.name][place].answer.text,
            )
            for place in places
        ]
        for variant in variants
    }
    likely = {
        name: [(answers[place].nll, answers[place].num_tokens) for place in places] for name, answers in scored.items()
    }
    return score(
        predictions,
        class_labels(cfg, [rows[place] for place in places]),
        confidence=cfg.evaluate.confidence,
        bootstrap_samples=cfg.evaluate.bootstrap_samples,
        seed=cfg.seed,
        few_shot_k=cfg.evaluate.few_shot_k,
        perplexity=None if cfg.train.objective == "classification" else likely,
        text_metrics=cfg.train.answers_prompts,
    )


def comparison_table(evaluation: Evaluation) -> Any:
    """Metrics of every variant with their intervals, for the terminal."""
    metrics = {name: variant.metrics for name, variant in evaluation.variants.items()}
    return _metrics_table(metrics, f"test split, n = {evaluation.n}")


def task_table(evaluation: Evaluation, name: str) -> Any:
    """The same of one dataset's rows."""
    task = evaluation.tasks[name]
    return _metrics_table(task.variants, f"{name}, n = {task.n}")


def _metrics_table(variants: Mapping[str, Mapping[str, Interval]], title: str) -> Any:
    from rich.table import Table

    table = Table("metric", *variants, title=title)
    for metric in next(iter(variants.values())):
        cells = (found[metric] for found in variants.values())
        table.add_row(metric, *(f"{cell.value:.3f} [{cell.low:.3f}, {cell.high:.3f}]" for cell in cells))
    return table
