"""The whole life cycle in one call: data, sweep, fine-tuning, judgement, gate, registry, endpoint, one answer."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier import live, stages
from luthier.config import RunConfig
from luthier.errors import GateRefused
from luthier.judging import judge
from luthier.measuring import compare_and_measure, put_before_gate, require_passed
from luthier.preflight import checks_of_run
from luthier.reporting import write_evaluation, write_judgement
from luthier.rundir import api_key, close_run, run_directory
from luthier.secret_refs import apply_secrets
from luthier.view import QuietView, View

if TYPE_CHECKING:
    from luthier.cluster.session import Session
    from luthier.judging import Judgement
    from luthier.registry import ModelVersion
    from luthier.sweep_schema import SweepResult
    from luthier.trainers.fit import TrainResult


@dataclass
class _Run:
    """A run under way, and what is known of it so far."""

    workdir: Path
    key_file: Path | None
    view: View
    keep: bool
    incumbent: ModelVersion | None = None
    sweep: SweepResult | None = None
    trained: TrainResult | None = None
    judgement: Judgement | None = None
    parity: dict[str, Any] | None = None
    endpoint: dict[str, Any] | None = None
    result: dict[str, Any] = field(default_factory=dict)


def run(cfg: RunConfig, view: View | None = None, *, keep: bool = False) -> dict[str, Any]:
    """Take a model from data to a live endpoint, ask it once, and stop it.

    Of an objective that makes no model to be asked (pretraining) the run ends with the registered version.

    Args:
        cfg: The configuration.
        view: Shows what happens; None: nothing is shown.
        keep: Leave the endpoint up until interrupted.

    Returns:
        Figures and places: run directory, version, metrics, timings, answer.

    Raises:
        LuthierError: A stage failed or the gate refused; the report tells as far as the run came.
    """
    from luthier.cluster.preflight import checked

    apply_secrets(cfg)
    with (
        checked(cfg, also=checks_of_run(cfg), port=cfg.train.is_served),
        run_directory(cfg, "run") as workdir,
        api_key(cfg, workdir) as key_file,
    ):
        running = _Run(workdir, key_file, view or QuietView(), keep, result={"workdir": str(workdir)})
        _run_in(cfg, running)
    return running.result


def _run_in(cfg: RunConfig, run: _Run) -> None:
    from luthier.cluster import check_resources
    from luthier.tuning import winning_config

    base_model_dir = stages.prepare_model(cfg, run.view)
    run.incumbent = stages.incumbent_of(cfg, base_model_dir)
    with ExitStack() as open_until_the_end:
        session = _open_ray(cfg, run.view, open_until_the_end)
        check_resources(cfg, session.resources)
        cfg = stages.settle_strategy(cfg, session.resources, run.workdir, run.view)
        run.result["data"] = stages.check_data(cfg, base_model_dir, run.view, run.workdir / "data.html").as_dict()
        final = cfg
        if cfg.tune is not None:
            run.sweep = stages.sweep(cfg, base_model_dir, run.workdir, run.view)
            final = winning_config(cfg, run.sweep)
        run.trained = stages.fine_tune(final, base_model_dir, run.workdir, run.view)
        try:
            _judge_and_serve(final, base_model_dir, run.trained.artifact_dir, run)
        except GateRefused:
            _finish(final, run, status="refused")
            raise
    _finish(final, run, status="live and stopped" if cfg.train.is_served else "registered")


def _open_ray(cfg: RunConfig, view: View, until: ExitStack) -> Session:
    """Open the cluster as a stage of its own, whose time is that of the start alone."""
    from luthier.cluster.session import start

    where = cfg.cluster.address or os.environ.get("RAY_ADDRESS") or "on this machine"
    with view.stage("cluster", f"Ray cluster {where}"):
        return until.enter_context(start(cfg))


def _judge_and_serve(cfg: RunConfig, base_model_dir: Path, artifact_dir: Path, run: _Run) -> None:
    """Judge and register; the alias moves only once the endpoint has proved to answer as the trainer does."""
    from luthier.serving import stop

    assert run.trained is not None
    judgement = run.judgement = judge(cfg, base_model_dir, artifact_dir, run.incumbent, run.view)
    write_evaluation(run.workdir, judgement)
    version = stages.register(cfg, artifact_dir, judgement, run.view, run.trained.metrics)
    run.result["version"] = version.ref
    if not cfg.train.is_served:
        stages.promote(cfg, version, run.incumbent, judgement.decision, run.view)
        run.view.note(f"a model of train.objective: {cfg.train.objective} is no chat model, so the run ends here")
        return
    endpoint = live.go_live(cfg, base_model_dir, [version.ref], run.view)
    try:
        parity, record = compare_and_measure(cfg, endpoint, version, judgement, run.view)
        run.parity = parity.as_dict()
        judgement = run.judgement = put_before_gate(cfg, version, judgement, record)
        require_passed(version, judgement)
        stages.promote(cfg, version, run.incumbent, judgement.decision, run.view)
        answer = live.ask_once(cfg, endpoint, version, judgement, run.view)
        run.endpoint = {
            "base_url": endpoint.base_url,
            "models": list(endpoint.models),
            "question": judgement.rows[0]["text"],
            **answer,
        }
        if run.keep:
            live.hold(run.view, live.curl_line(cfg, endpoint, cfg.name, run.key_file))
    finally:
        with run.view.stage("stop", "Stopping the endpoint"):
            stop(endpoint)


def _finish(cfg: RunConfig, run: _Run, *, status: str) -> None:
    """Write the report, and the result that marks the run as ended."""
    from luthier.trainers.sequence import read_stages

    assert run.trained is not None and run.judgement is not None
    with run.view.stage("report", "Writing the report"):
        report = write_judgement(
            run.workdir,
            cfg,
            run.judgement,
            run.trained.manifest,
            timings=run.view.timings,
            history=run.trained.metrics,
            sweep=run.sweep,
            parity=run.parity,
            endpoint=run.endpoint,
            stages=read_stages(run.workdir / "train"),
        )
        run.view.plain(f"report: {report}")
    run.result |= {
        "status": status,
        "report": str(report),
        "metrics": _headline(run.judgement),
        "rows": run.trained.rows(),
        "parity": run.parity,
        "endpoint": run.endpoint,
        "timings_s": {name: round(seconds, 2) for name, seconds in run.view.timings.items()},
    }
    close_run(run.workdir, run.result)


def _headline(judgement: Judgement) -> dict[str, Any]:
    """The gate's figure of every variant."""
    variants = judgement.evaluation.variants
    chosen = {name: variant.metrics.get(judgement.decision.metric or "") for name, variant in variants.items()}
    return {name: interval.model_dump() for name, interval in chosen.items() if interval is not None}
