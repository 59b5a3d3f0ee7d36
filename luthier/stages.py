"""The stages of a life cycle, each from the config and the stage before it. Ray must be initialised.

The only place, with the pipeline and the command line, that knows every package; each stage imports what it needs when
it runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.config import RunConfig
from luthier.errors import ConfigError, GateRefused, RegistryError
from luthier.rundir import STRATEGY
from luthier.sweep_schema import SweepResult
from luthier.view import View

if TYPE_CHECKING:
    from luthier.gate import GateDecision
    from luthier.judging import Judgement
    from luthier.registry import ModelVersion
    from luthier.trainers.data_report import DataReport
    from luthier.trainers.fit import TrainResult


def prepare_model(cfg: RunConfig, view: View) -> Path:
    """The base model on local disk."""
    from luthier.trainers.base_model import prepare_base

    with view.stage("model", f"Preparing the base model {cfg.model.model_name_or_path}"):
        base_model_dir = prepare_base(cfg.model, offline=cfg.offline, objective=cfg.train.objective)
        view.plain(f"in {base_model_dir}")
    return base_model_dir


def settle_strategy(cfg: RunConfig, resources: Mapping[str, float], workdir: Path, view: View) -> RunConfig:
    """The config with ``strategy: auto`` decided, and the reason shown.

    A run that is continued keeps the strategy that it began with, or its checkpoints would be of another run.

    Args:
        cfg: The configuration.
        resources: What the cluster has.
        workdir: The run's directory, where the choice is noted.
        view: Shows what happens.
    """
    from luthier.cluster import Choice, choose
    from luthier.digests import atomic_write_text

    if cfg.train.strategy != "auto":
        return cfg
    noted = workdir / STRATEGY
    if noted.exists():
        choice = Choice.model_validate_json(noted.read_text(encoding="utf-8"))
    else:
        choice = choose(cfg, resources)
        atomic_write_text(noted, choice.model_dump_json(indent=1))
    view.plain(f"strategy: auto is {choice.row}, because {choice.reason}")
    return choice.settled(cfg)


def check_data(
    cfg: RunConfig, base_model_dir: Path, view: View, page: Path | None = None, preview: int = 0
) -> DataReport:
    """Read, examine and tokenise the data.

    Args:
        cfg: The configuration.
        base_model_dir: The pretrained model.
        view: Shows what happens.
        page: Where the report is written; it is there also where the data is then refused for what it tells. None: nowhere.
        preview: Training rows to show with their text.

    Raises:
        DataError: Rows can't be used, or nothing could be measured on them.
    """
    from luthier.digests import atomic_write_text
    from luthier.trainers.data_report import check_data as check
    from luthier.trainers.doctor.page import render_data

    with view.stage("data", "Checking and tokenising the data"):
        report = check(cfg, base_model_dir, preview)
        view.note(report.table())
        for split in report.splits.values():
            for row in split.preview:
                view.note(row.text())
        if page is not None:
            atomic_write_text(page, render_data(cfg.name, report))
            view.plain(f"report of the data: {page}")
        report.check()
    return report


def sweep(cfg: RunConfig, base_model_dir: Path, workdir: Path, view: View) -> SweepResult:
    """Search the space; a sweep that this run finished before is not repeated."""
    from luthier.tuning import leaderboard_table, tune

    with view.stage("sweep", "Searching hyperparameters"):
        directory = workdir / "sweep"
        done = directory / "leaderboard.json"
        if done.exists():
            view.note("the sweep was finished before; its result is used")
            result = SweepResult.model_validate_json(done.read_text())
        else:
            result = tune(cfg, workdir=directory, base_model_dir=base_model_dir, on_progress=view.on_trial)
        view.note(leaderboard_table(result))
        view.plain(f"report of the sweep: {directory / 'sweep.html'}")
        view.plain(f"winner's config: {directory / 'winner.yaml'}")
    return result.model_copy(update={"directory": str(directory)})


def fine_tune(cfg: RunConfig, base_model_dir: Path, workdir: Path, view: View) -> TrainResult:
    """Train on Ray Train workers, stage by stage where the config has stages."""
    from luthier.trainers.fit import train
    from luthier.trainers.sequence import train_stages

    how = f"{cfg.train.method} with {cfg.train.strategy_row}"
    number = cfg.train.num_workers
    workers = f"{number[0]} to {number[1]}" if isinstance(number, tuple) else number
    place = workdir / "train"
    with view.stage("train", f"Fine-tuning: {how}, {workers} worker(s)"):
        if cfg.stages:
            result = train_stages(
                cfg, base_model_dir=base_model_dir, workdir=place, on_metrics=view.on_train, on_stage=view.plain
            )
        else:
            result = train(cfg, base_model_dir=base_model_dir, workdir=place, on_metrics=view.on_train)
        view.note(f"best checkpoint is of step {result.best_step}")
    return result


def incumbent_of(cfg: RunConfig, base_model_dir: Path) -> ModelVersion | None:
    """The version that the alias points to now, if there is one.

    Raises:
        ConfigError: It is an adapter of another base model, so the two can't be compared on this one.
    """
    from luthier.registry import Registry
    from luthier.trainers.base_model import base_digest

    try:
        version = Registry(cfg.registry.uri, cfg.registry.alias).resolve(f"{cfg.name}@{cfg.registry.alias}")
    except RegistryError:
        return None
    taught = version.manifest.objective
    if (taught == "classification") != (cfg.train.objective == "classification"):
        raise ConfigError(
            f"{version.ref}, the incumbent, was trained with train.objective: {taught}, so it can't be compared with one of "
            f"{cfg.train.objective}; give this model another name or alias."
        )
    trained_on = version.manifest.base_model
    if version.manifest.is_adapter and trained_on.digest != base_digest(base_model_dir):
        raise ConfigError(
            f"{version.ref}, the incumbent, is an adapter of {trained_on.model_name_or_path} with digest "
            f"{trained_on.digest[:12]}, not of {cfg.model.model_name_or_path}; give this model another name or alias."
        )
    return version


def register(
    cfg: RunConfig,
    artifact_dir: Path,
    judgement: Judgement,
    view: View,
    history: Sequence[Mapping[str, Any]] = (),
) -> ModelVersion:
    """Put the artifact into the registry, unless it is there. No alias moves; see :func:`promote`.

    Args:
        cfg: Names the model and the registry.
        artifact_dir: What was judged.
        judgement: The verdict, stored with the version as figures and as a report.
        view: Shows what happens.
        history: Rows of the metrics stream, for the report.

    Raises:
        GateRefused: The gate did not pass; nothing is registered.
    """
    from luthier.manifest import load_manifest
    from luthier.registry import Registry
    from luthier.reporting import shared_report

    with view.stage("register", "Gate and registry"):
        decision = judgement.decision
        for check in decision.checks:
            view.plain(f"{'passed' if check.passed else 'refused'} {check.name}: {check.reason}")
        if not decision.passed:
            raise GateRefused(
                f"the gate refused {cfg.name}: {'; '.join(decision.refusals)}. Nothing was registered; train better or change gate.*"
            )
        registry = Registry(cfg.registry.uri, cfg.registry.alias)
        manifest = load_manifest(artifact_dir)
        if (known := registry.find(cfg.name, manifest)) is not None:
            view.note(f"already registered as [bold]{known.ref}[/]")
            return known
        figures = judgement.evaluation.model_dump(mode="json")
        report = shared_report(cfg.name, judgement, manifest, history)
        version = registry.register(artifact_dir, cfg.name, figures, report=report)
        view.note(f"registered [bold]{version.ref}[/]")
        return version


def promote(
    cfg: RunConfig, version: ModelVersion, incumbent: ModelVersion | None, decision: GateDecision, view: View
) -> None:
    """Move the alias to a version that the gate let pass.

    Args:
        cfg: Names the registry and the alias.
        version: Where the alias goes.
        incumbent: Where it stood when the two were compared; from anywhere else it is not moved.
        decision: The figures for the audit record.
        view: Shows what happens.

    Raises:
        RegistryError: Someone moved the alias meanwhile.
    """
    from luthier.registry import Registry, system_user

    name = f"{version.name}@{cfg.registry.alias}"
    if incumbent is not None and incumbent.version == version.version:
        view.note(f"{name} is {version.ref} already")
        return
    Registry(cfg.registry.uri, cfg.registry.alias).set_alias(
        version.name,
        cfg.registry.alias,
        version.version,
        actor=system_user(),
        reason="gate passed",
        figures=decision.figures,
        expected_version=incumbent.version if incumbent else 0,
    )
    view.note(f"{name} is [bold]{version.ref}[/] now")
