"""The stages of a run, trained one after the other, and what the later ones make the model forget."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from luthier.config.run import RunConfig
from luthier.config.sequence import trainings
from luthier.config.stage import StageConfig
from luthier.digests import atomic_write_text
from luthier.errors import GateRefused
from luthier.manifest import MANIFEST_NAME, load_manifest
from luthier.trainers.artifact import write_artifact
from luthier.trainers.blocks import prepare_blocks
from luthier.trainers.earlier import EarlierTask, Start
from luthier.trainers.fit import TrainResult, train
from luthier.trainers.inprocess import make_job
from luthier.trainers.metrics_stream import FILE_NAME, Metrics, read_metrics

STAGES = "stages.json"
"""Every stage's losses, beside the artifact."""


@dataclass(frozen=True)
class StageOutcome:
    """What the model could do when a stage had ended.

    Attributes:
        name: The stage's.
        losses: Validation loss of each task so far, by its dataset's name.
        forgotten: Of each task that an earlier stage taught: the rise of its loss since then, as a share of it.
    """

    name: str
    losses: dict[str, float]
    forgotten: dict[str, float]


def train_stages(
    cfg: RunConfig,
    *,
    base_model_dir: Path,
    workdir: Path,
    on_metrics: Callable[[Metrics], None] | None = None,
    on_stage: Callable[[str], None] = lambda text: None,
) -> TrainResult:
    """Train each stage from the best checkpoint of the one before it. A stage that this run finished before is not
    repeated.

    Args:
        cfg: The configuration, with ``stages``.
        base_model_dir: The pretrained model, prepared.
        workdir: The training's directory; each stage has its own in it.
        on_metrics: As of :func:`luthier.trainers.fit.train`; steps count from 1 in each stage.
        on_stage: Told in words when a stage begins, and what it came to.

    Returns:
        The last stage's result under the whole run's config. Its metrics are those of all stages, their steps counted on.

    Raises:
        GateRefused: A stage made the model forget more than its ``max_forgetting`` allows.
        LuthierError: As :func:`luthier.trainers.fit.train`.
    """
    results: list[TrainResult] = []
    outcomes: list[StageOutcome] = []
    taught: dict[str, EarlierTask] = {}
    for number, (stage, one) in enumerate(zip(cfg.stages, trainings(cfg), strict=True), start=1):
        on_stage(f"stage {number} of {len(cfg.stages)}, {stage.name}: {one.train.objective}")
        own = {dataset.name for dataset in one.datasets}
        earlier = tuple(task for name, task in taught.items() if name not in own)
        start = Start.at(results[-1].best.weights_dir) if results else None
        directory = workdir / f"stage-{number}-{stage.name}"
        results.append(_train_once(one, base_model_dir, directory, on_metrics, start, earlier))
        outcomes.append(_outcome(stage, results[-1], outcomes, [task.name for task in earlier]))
        atomic_write_text(workdir / STAGES, json.dumps([asdict(outcome) for outcome in outcomes], indent=1))
        on_stage(_told(outcomes[-1]))
        _guard(stage, outcomes[-1], outcomes, results)
        taught |= _tasks_of(one, base_model_dir)
    return _as_one(cfg, results, workdir)


def _train_once(
    cfg: RunConfig,
    base_model_dir: Path,
    directory: Path,
    on_metrics: Callable[[Metrics], None] | None,
    start: Start | None,
    earlier: tuple[EarlierTask, ...],
) -> TrainResult:
    artifact_dir = directory / "artifact"
    if (artifact_dir / MANIFEST_NAME).exists():
        job = make_job(cfg, base_model_dir, directory.resolve(), start, earlier)
        if (best := job.store().best()) is not None:
            metrics = tuple(read_metrics(directory / FILE_NAME))
            return TrainResult(artifact_dir, load_manifest(artifact_dir), best, metrics, job)
    return train(
        cfg, base_model_dir=base_model_dir, workdir=directory, on_metrics=on_metrics, start=start, earlier=earlier
    )


def _tasks_of(cfg: RunConfig, base_model_dir: Path) -> dict[str, EarlierTask]:
    """The tasks that a stage teaches and that can be validated, by name."""
    with_validation = [dataset for dataset in cfg.datasets if dataset.validation]
    return {
        dataset.name: EarlierTask(
            dataset.name,
            cfg.train,
            cfg.data,
            prepare_blocks([dataset], cfg.data, base_model_dir, ["validation"], cfg.train)["validation"],
        )
        for dataset in with_validation
    }


def _outcome(
    stage: StageConfig, result: TrainResult, before: Sequence[StageOutcome], earlier: Sequence[str]
) -> StageOutcome:
    measured = result.best.metrics
    prefix = "eval_loss/"
    losses = {name.removeprefix(prefix): loss for name, loss in measured.items() if name.startswith(prefix)}
    own = [dataset.name for dataset in result.job.cfg.datasets if dataset.validation]
    if not losses and own and "eval_loss" in measured:
        losses = {own[0]: measured["eval_loss"]}
    learnt = {name: next(one.losses[name] for one in before[::-1] if name not in one.forgotten) for name in earlier}
    return StageOutcome(stage.name, losses, {name: losses[name] / learnt[name] - 1.0 for name in earlier})


def _told(outcome: StageOutcome) -> str:
    parts = [
        f"{name} {loss:.4f}"
        + (f" ({outcome.forgotten[name]:+.1%} since it was learnt)" if name in outcome.forgotten else "")
        for name, loss in outcome.losses.items()
    ]
    return f"validation loss after {outcome.name}: {', '.join(parts) or 'not measured'}"


def _guard(
    stage: StageConfig, outcome: StageOutcome, outcomes: Sequence[StageOutcome], results: Sequence[TrainResult]
) -> None:
    limit = stage.max_forgetting
    beyond = [] if limit is None else [name for name, rise in outcome.forgotten.items() if rise > limit]
    if not beyond:
        return
    told = ", ".join(f"{name} rose by {outcome.forgotten[name]:.1%} to {outcome.losses[name]:.4f}" for name in beyond)
    raise GateRefused(
        f"stage {stage.name} forgot: the validation loss of {told}; stages[{len(outcomes) - 1}].max_forgetting is "
        f"{limit:.1%}. Nothing was registered. Lower the stage's learning rate or steps, let it learn rows of the earlier "
        f"tasks too (stages[].datasets with datasets[].weight), or raise the limit. What the stage before it learnt is "
        f"whole in {results[-2].artifact_dir}."
    )


def _as_one(cfg: RunConfig, results: Sequence[TrainResult], workdir: Path) -> TrainResult:
    """The last stage's result, described as that of the run."""
    last = results[-1]
    artifact_dir = workdir.resolve() / "artifact"
    manifest = write_artifact(cfg, [result.job for result in results], last.best, artifact_dir)
    rows: list[Metrics] = []
    for number, result in enumerate(results, start=1):
        done = rows[-1]["step"] if rows else 0
        rows += [{**row, "step": row["step"] + done, "stage": number} for row in result.metrics]
    atomic_write_text(workdir / FILE_NAME, "".join(json.dumps(row) + "\n" for row in rows))
    by_name = {stage.name: result for stage, result in zip(cfg.stages, results, strict=True)}
    return TrainResult(artifact_dir, manifest, last.best, tuple(rows), last.job, by_name)


def read_stages(directory: Path) -> list[StageOutcome]:
    """The outcomes that a run's training left in its directory; none where it had no stages."""
    path = directory / STAGES
    found: list[Mapping[str, object]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return [StageOutcome(**one) for one in found]  # type: ignore[arg-type]
