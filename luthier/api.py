"""The verbs as Python functions. Each opens a Ray session, does one stage, and closes what it opened."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier import stages
from luthier.adding import add as add
from luthier.config import RunConfig, load_config
from luthier.endpoints import serve as serve
from luthier.errors import ConfigError
from luthier.exporting import export as export
from luthier.judging import judge
from luthier.measuring import check_measurable, put_before_gate, serve_once
from luthier.paths import check_writable
from luthier.pipeline import run as run
from luthier.preflight import check_judgeable, checks_of_candidate, checks_of_sweep
from luthier.reporting import write_judgement
from luthier.rundir import close_run, newest_artifact, run_directory
from luthier.secret_refs import apply_secrets
from luthier.view import QuietView, View

if TYPE_CHECKING:
    from luthier.cluster.resources import Stage
    from luthier.judging import Judgement
    from luthier.registry import ModelVersion
    from luthier.sweep_schema import SweepResult
    from luthier.trainers.data_report import DataReport
    from luthier.trainers.fit import TrainResult


def check_data(cfg: RunConfig, view: View | None = None, *, report: Path | None = None, preview: int = 0) -> DataReport:
    """Read, examine and tokenise every split.

    Args:
        cfg: The configuration.
        view: Shows what happens.
        report: File of the report in HTML; None: none is written.
        preview: Training rows to show with their text, in the report too.

    Raises:
        DataError: Rows can't be used, or nothing could be measured on them.
        OutputError: The report can't be written.
    """
    from luthier.cluster.session import start

    view = view or QuietView()
    if report is not None:
        check_writable(report.parent, "--report")
    apply_secrets(cfg)
    base_model_dir = stages.prepare_model(cfg, view)
    with start(cfg):
        return stages.check_data(cfg, base_model_dir, view, report, preview)


def train(cfg: RunConfig, view: View | None = None) -> TrainResult:
    """Fine-tune; a training of the same config and data that was cut off is continued."""
    from luthier.cluster import check_resources
    from luthier.cluster.preflight import checked
    from luthier.cluster.session import start

    view = view or QuietView()
    apply_secrets(cfg)
    with checked(cfg, ("train",)), run_directory(cfg, "train") as workdir:
        base_model_dir = stages.prepare_model(cfg, view)
        with start(cfg) as session:
            check_resources(cfg, session.resources, ("train",))
            cfg = stages.settle_strategy(cfg, session.resources, workdir, view)
            result = stages.fine_tune(cfg, base_model_dir, workdir, view)
        close_run(workdir, train_facts(result))
    return result


def train_facts(result: TrainResult) -> dict[str, Any]:
    """What is told of a training: on stdout, and in the run's ``result.json``."""
    return {
        "artifact_dir": str(result.artifact_dir),
        "best_step": result.best_step,
        "metrics": result.manifest.metrics,
        "lineage_id": result.manifest.lineage_id,
        "rows": result.rows(),
    }


def tune(cfg: RunConfig, view: View | None = None, *, register: bool = False) -> SweepResult:
    """Run the config's sweep.

    Args:
        cfg: The configuration.
        view: Shows what happens.
        register: Then train the winner at full length, judge it once on the test split, and register it as a candidate:
            a version that no alias points to.

    Raises:
        GateRefused: The winner did not pass the gate; nothing is registered.
    """
    from luthier.cluster import check_resources
    from luthier.cluster.preflight import checked
    from luthier.cluster.resources import STAGES
    from luthier.cluster.session import start

    view = view or QuietView()
    apply_secrets(cfg)
    what, also = (
        (STAGES, checks_of_sweep(cfg) + checks_of_candidate(cfg)) if register else (("tune",), checks_of_sweep(cfg))
    )
    with checked(cfg, what, also), run_directory(cfg, "tune") as workdir:
        base_model_dir = stages.prepare_model(cfg, view)
        incumbent = stages.incumbent_of(cfg, base_model_dir) if register else None
        with start(cfg) as session:
            if register:
                check_resources(cfg, session.resources)
            cfg = stages.settle_strategy(cfg, session.resources, workdir, view)
            result = stages.sweep(cfg, base_model_dir, workdir, view)
            if register:
                version = _register_winner(cfg, result, base_model_dir, workdir, incumbent, view)
                result = result.model_copy(update={"registered_as": version.ref})
        close_run(workdir, result.model_dump(mode="json"))
    return result


def _register_winner(
    cfg: RunConfig,
    sweep: SweepResult,
    base_model_dir: Path,
    workdir: Path,
    incumbent: ModelVersion | None,
    view: View,
) -> ModelVersion:
    from luthier.trainers.sequence import read_stages
    from luthier.tuning import winning_config

    final = winning_config(cfg, sweep)
    trained = stages.fine_tune(final, base_model_dir, workdir, view)
    judgement = judge(final, base_model_dir, trained.artifact_dir, incumbent, view)
    report = write_judgement(
        workdir,
        final,
        judgement,
        trained.manifest,
        timings=view.timings,
        history=trained.metrics,
        sweep=sweep,
        stages=read_stages(workdir / "train"),
    )
    view.plain(f"report: {report}")
    return stages.register(final, trained.artifact_dir, judgement, view, trained.metrics)


_NOT_OF_A_VERSION = ("evaluate.judge=null", "evaluate.metrics=[]", "evaluate.harness=null")
"""What a stored config may not ask of whoever evaluates the version: to send their rows and a key of their environment
somewhere, or to run code. Overrides ask for it."""


@dataclass(frozen=True)
class Target:
    """What ``CONFIG`` or ``MODEL@VERSION`` names.

    Attributes:
        cfg: How it is judged.
        artifact_dir: What is judged.
        output: Where the verdict is written.
        version: Its place in the registry; None for a run's artifact.
    """

    cfg: RunConfig
    artifact_dir: Path
    output: Path
    version: ModelVersion | None = None


def resolve_target(target: str, overrides: Sequence[str] = (), registry_uri: str = "registry") -> Target:
    """Find what is to be judged.

    Args:
        target: A run's YAML file, or a registered model.
        overrides: Settings to judge by; those that shape the weights must be the trained run's.
        registry_uri: Where ``MODEL@VERSION`` is registered.

    Raises:
        ConfigError: A config whose run has not trained anything yet.
        RegistryError: There is no such model.
    """
    from luthier.registry import Registry

    if target.endswith((".yaml", ".yml")) or Path(target).exists():
        return trained_target(load_config(target, overrides))
    registry = Registry(registry_uri)
    version = registry.resolve(target)
    artifact_dir = registry.fetch(version.ref)
    own = [f"registry.uri={json.dumps(registry_uri)}", *_NOT_OF_A_VERSION, *overrides]
    cfg = load_config(artifact_dir / "config.yaml", own)
    return Target(cfg, artifact_dir, Path(f"evaluation-{version.name}-{version.version}"), version)


def trained_target(cfg: RunConfig) -> Target:
    """The newest artifact that was trained by a config.

    Raises:
        ConfigError: There is none.
    """
    found = newest_artifact(cfg)
    if found is None:
        raise ConfigError(
            f"{cfg.name}: no run of this config has been trained under {cfg.storage_path!r}; run luthier train first."
        )
    return Target(cfg, found, found.parents[1] / "evaluation")


def evaluate(
    target: RunConfig | Target, view: View | None = None, *, serve: bool = False, promote: bool = False
) -> Judgement:
    """Judge a model on its config's test split against base, few-shot and incumbent; write figures and report.

    Args:
        target: A config, whose newest artifact is judged, or what :func:`resolve_target` found.
        view: Shows what happens.
        serve: Serve the version too, and keep with it how its answers compare with the trainer's and how fast they came;
            without it the gate goes by what was measured before. For registered models.
        promote: Move the alias to the version if the gate passes; for registered models.

    Raises:
        ConfigError, DataError: There is nothing to judge, or nothing to judge it on.
        ServingError: The endpoint does not answer as the trained model does.
        OutputError: The verdict can't be written.
    """
    from luthier.cluster import check_resources
    from luthier.cluster.preflight import checked
    from luthier.cluster.session import start
    from luthier.manifest import load_manifest
    from luthier.registry import Registry
    from luthier.trainers.sequence import read_stages

    view = view or QuietView()
    target = trained_target(target) if isinstance(target, RunConfig) else target
    cfg = target.cfg
    if promote and target.version is None:
        raise ConfigError("--promote moves an alias to a registered version; name it as MODEL@VERSION.")
    apply_secrets(cfg)
    if serve:
        check_measurable(cfg, target.version)
    what: tuple[Stage, ...] = ("train", "serve") if serve else ("train",)
    also = (partial(check_judgeable, cfg), partial(check_writable, target.output, "the directory of the verdict"))
    with checked(cfg, what, also):
        base_model_dir = stages.prepare_model(cfg, view)
        incumbent = stages.incumbent_of(cfg, base_model_dir)
        with start(cfg) as session:
            check_resources(cfg, session.resources, what)
            judgement = judge(cfg, base_model_dir, target.artifact_dir, incumbent, view)
            if serve and target.version is not None:
                serve_once(cfg, base_model_dir, target.version, judgement, view)
    if target.version is not None:
        record = Registry(cfg.registry.uri, cfg.registry.alias).served(target.version)
        judgement = put_before_gate(cfg, target.version, judgement, record)
    target.output.mkdir(parents=True, exist_ok=True)
    manifest, history = load_manifest(target.artifact_dir), _history(target)
    stages_before = read_stages(target.artifact_dir.parent)
    report = write_judgement(
        target.output, cfg, judgement, manifest, timings=view.timings, history=history, stages=stages_before
    )
    view.plain(f"report: {report}")
    if promote and judgement.decision.passed and target.version is not None:
        stages.promote(cfg, target.version, incumbent, judgement.decision, view)
    return judgement


def _history(target: Target) -> Sequence[Mapping[str, Any]]:
    from luthier.trainers.metrics_stream import FILE_NAME, read_metrics

    stream = target.artifact_dir.parent / FILE_NAME
    return read_metrics(stream) if target.version is None and stream.exists() else ()
