"""The stage that judges: the test split answered by every variant, scored, and put before the gate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.config import RunConfig
from luthier.view import View

if TYPE_CHECKING:
    from luthier.evaluation_schema import Evaluation, Interval
    from luthier.gate import GateDecision
    from luthier.registry import ModelVersion
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
    from luthier.arbiter import ask_judge
    from luthier.costing import with_costs, with_usage
    from luthier.fewshot import best_k, choose_few_shot_k
    from luthier.gate import decide
    from luthier.limits import size_check
    from luthier.manifest import load_manifest
    from luthier.scoring import score_all
    from luthier.trainers.answering import answer_all, variants_for
    from luthier.trainers.doctor.redact import redacted
    from luthier.trainers.files import evaluation_rows
    from luthier.trainers.harness import run_harness

    with view.stage("evaluate", "Evaluating on the test split"):
        rows = redacted(evaluation_rows(cfg), cfg.data.redact)
        search = choose_few_shot_k(cfg, base_model_dir, view)
        k = cfg.evaluate.few_shot_ks[0] if search is None else best_k(search)
        variants = variants_for(cfg, artifact_dir, _rival(cfg, artifact_dir, incumbent), k)
        scored = answer_all(cfg, variants, rows, base_model_dir, view.on_answers)
        evaluation = score_all(cfg, scored, rows, k).model_copy(update={"few_shot_search": search})
        evaluation = with_costs(cfg, with_usage(cfg, evaluation, scored))
        others = {
            "judged": ask_judge(cfg, rows, scored, view),
            "harness": run_harness(cfg, base_model_dir, artifact_dir),
        }
        evaluation = evaluation.model_copy(update=others)
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

    from luthier.evaluation_schema import metric_names

    table = Table("metric", *variants, title=title)
    for metric in metric_names(variants.values()):
        table.add_row(metric, *(_cell(found.get(metric)) for found in variants.values()))
    return table


def _cell(found: Interval | None) -> str:
    return "-" if found is None else f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"
