"""A judgement on disk: ``evaluation.json``, ``report.html`` and the confusion matrix as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from luthier.config import RunConfig, dump_yaml
from luthier.digests import atomic_write_text

if TYPE_CHECKING:
    from luthier.judging import Judgement
    from luthier.manifest import Manifest
    from luthier.sweep_schema import SweepResult
    from luthier.trainers.sequence import StageOutcome

EVALUATION = "evaluation.json"
REPORT = "report.html"


def write_evaluation(directory: Path, judgement: Judgement) -> None:
    """Write the figures alone, as soon as they are known."""
    atomic_write_text(directory / EVALUATION, judgement.evaluation.model_dump_json(indent=1))


def write_judgement(
    directory: Path,
    cfg: RunConfig,
    judgement: Judgement,
    manifest: Manifest,
    *,
    timings: Mapping[str, float],
    history: Sequence[Mapping[str, Any]] = (),
    sweep: SweepResult | None = None,
    parity: Mapping[str, Any] | None = None,
    endpoint: Mapping[str, Any] | None = None,
    stages: Sequence[StageOutcome] = (),
) -> Path:
    """Write figures and report.

    Args:
        directory: Where to write.
        cfg: What was run.
        judgement: The verdict.
        manifest: The judged artifact's.
        timings: Seconds by stage.
        history: Rows of the metrics stream.
        sweep: The sweep before the training.
        parity: How the endpoint's answers compared with the trainer's.
        endpoint: Where it was, what it was asked and answered.
        stages: What each stage of the training came to.

    Returns:
        The report's path.
    """
    from luthier.trainers.evaluation import render_report, write_confusion_png

    write_evaluation(directory, judgement)
    report = render_report(
        title=cfg.name,
        evaluation=judgement.evaluation,
        history=history,
        sweep=None if sweep is None else sweep.model_dump(mode="json"),
        timings=timings,
        manifest=manifest,
        gate=judgement.decision,
        config_yaml=dump_yaml(cfg),
        examples=_examples(judgement),
        parity=parity,
        endpoint=endpoint,
        stages=[asdict(stage) for stage in stages],
    )
    atomic_write_text(directory / REPORT, report)
    if judgement.evaluation.labels:
        write_confusion_png(directory / "confusion.png", judgement.evaluation, "tuned")
    return directory / REPORT


def shared_report(
    title: str, judgement: Judgement, manifest: Manifest, history: Sequence[Mapping[str, Any]] = ()
) -> bytes:
    """The report that is stored with a version. Everyone who may ask the model may read it, so it holds no row of the
    data, no answer, no config and no path of a file: figures, the gate, the course of the training and the lineage.

    Args:
        title: Heading.
        judgement: The verdict.
        manifest: The judged artifact's.
        history: Rows of the metrics stream.
    """
    from luthier.trainers.evaluation import render_report

    page = render_report(
        title=title,
        evaluation=judgement.evaluation,
        history=history,
        manifest=_without_paths(manifest),
        gate=judgement.decision,
    )
    return page.encode("utf-8")


def _without_paths(manifest: Manifest) -> Manifest:
    base = manifest.base_model
    named = base.model_copy(update={"model_name_or_path": PurePath(base.model_name_or_path).name})
    data = {
        split: tuple(file.model_copy(update={"path": PurePath(file.path).name}) for file in files)
        for split, files in manifest.data.items()
    }
    return manifest.model_copy(update={"base_model": named, "data": data})


def _examples(judgement: Judgement) -> list[dict[str, Any]]:
    answers = {name: [one.answer.text for one in scored] for name, scored in judgement.scored.items()}
    return [{**row, **{name: texts[i] for name, texts in answers.items()}} for i, row in enumerate(judgement.rows)]
