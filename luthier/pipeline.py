"""The whole life cycle in one call: data, sweep, fine-tuning, judgement, gate, registry, endpoint, one answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier import stages
from luthier.config import RunConfig, dump_yaml
from luthier.digests import atomic_write_text
from luthier.errors import GateRefused
from luthier.paths import check_writable
from luthier.rundir import api_key_file, close_run, run_directory
from luthier.view import View

if TYPE_CHECKING:
    from luthier.stages import Judgement
    from luthier.sweep_schema import SweepResult
    from luthier.trainers.fit import TrainResult


@dataclass
class _Facts:
    """What the report tells, filled in as the run goes on."""

    sweep: SweepResult | None = None
    trained: TrainResult | None = None
    judgement: Judgement | None = None
    parity: dict[str, Any] | None = None
    endpoint: dict[str, Any] | None = None
    result: dict[str, Any] = field(default_factory=dict)


def run(cfg: RunConfig, view: View, *, keep: bool = False) -> dict[str, Any]:
    """Take a model from data to a live endpoint, ask it once, and stop it.

    Args:
        cfg: The configuration.
        view: Shows what happens.
        keep: Leave the endpoint up until interrupted.

    Returns:
        Figures and places: run directory, version, metrics, timings, answer.

    Raises:
        LuthierError: A stage failed or the gate refused; the report tells as far as the run came.
    """
    _preflight(cfg)
    with run_directory(cfg) as workdir:
        return _run_in(cfg, workdir, view, keep=keep)


def _run_in(cfg: RunConfig, workdir: Path, view: View, *, keep: bool) -> dict[str, Any]:
    from luthier.cluster import check_resources
    from luthier.cluster.session import start
    from luthier.tuning import winning_config

    key_file = api_key_file(cfg, workdir)
    facts = _Facts(result={"workdir": str(workdir)})
    base_model_dir = stages.prepare_model(cfg, view)
    with _ray(cfg, view, start) as session:
        check_resources(cfg, session.resources)
        facts.result["data"] = stages.check_data(cfg, base_model_dir, view).as_dict()
        final = cfg
        if cfg.tune is not None:
            facts.sweep = stages.sweep(cfg, base_model_dir, workdir, view)
            final = winning_config(cfg, facts.sweep)
        facts.trained = stages.fine_tune(final, base_model_dir, workdir, view)
        try:
            _judge_and_serve(final, base_model_dir, workdir, key_file, facts, view, keep=keep)
        except GateRefused:
            _finish(final, workdir, facts, view, status="refused")
            raise
    _finish(final, workdir, facts, view, status="live and stopped")
    return facts.result


def _preflight(cfg: RunConfig) -> None:
    """Find what would stop the run before anything is started."""
    from luthier.trainers.files import SPLITS, read_rows

    for dataset in cfg.datasets:
        for split in SPLITS:
            if getattr(dataset, split):
                read_rows(dataset, split)
    if cfg.tune is not None:
        from luthier.tuning import check_space

        check_space(cfg)
    if "://" not in cfg.registry.uri:
        check_writable(Path(cfg.registry.uri).expanduser(), "registry.uri")


def _ray(cfg: RunConfig, view: View, start: Any) -> Any:
    where = cfg.cluster.address or "on this machine"
    with view.stage("cluster", f"Ray cluster {where}"):
        return _entered(start(cfg))


class _entered:
    """A context manager whose entry is timed apart from its body."""

    def __init__(self, manager: Any) -> None:
        self._manager = manager
        self._value = manager.__enter__()

    def __enter__(self) -> Any:
        return self._value

    def __exit__(self, *error: Any) -> Any:
        return self._manager.__exit__(*error)


def _judge_and_serve(
    cfg: RunConfig,
    base_model_dir: Path,
    workdir: Path,
    key_file: Path | None,
    facts: _Facts,
    view: View,
    *,
    keep: bool,
) -> None:
    from luthier.serving import stop

    assert facts.trained is not None
    incumbent = stages.incumbent_of(cfg)
    judgement = stages.judge(cfg, base_model_dir, facts.trained.artifact_dir, incumbent[1] if incumbent else None, view)
    facts.judgement = judgement
    atomic_write_text(workdir / "evaluation.json", judgement.evaluation.model_dump_json(indent=1))
    version = stages.register(cfg, facts.trained.artifact_dir, judgement, view)
    facts.result["version"] = version.ref
    sample = judgement.scored["tuned"][: cfg.serve.parity_rows]
    endpoint, parity = stages.go_live(cfg, base_model_dir, [version.ref], sample, view)
    try:
        facts.parity = parity.as_dict() if parity else None
        reply = stages.ask_once(cfg, endpoint, judgement.rows[0], view)
        facts.endpoint = {
            "base_url": endpoint.base_url,
            "models": list(endpoint.models),
            "question": judgement.rows[0]["text"],
            "answer": reply.text,
            "first_token_s": reply.first_token_s,
            "total_s": reply.total_s,
        }
        if keep:
            stages.hold(view, stages.curl_line(cfg, endpoint, cfg.name, key_file))
    finally:
        with view.stage("stop", "Stopping the endpoint"):
            stop(endpoint)


def _finish(cfg: RunConfig, workdir: Path, facts: _Facts, view: View, *, status: str) -> None:
    """Write the report, and the result that marks the run as ended."""
    with view.stage("report", "Writing the report"):
        report = _write_report(cfg, workdir, facts, view.timings)
        view.note(f"report: [bold]{report}[/]")
    evaluation = facts.judgement.evaluation if facts.judgement else None
    facts.result |= {
        "status": status,
        "report": str(report),
        "metrics": _headline(evaluation, cfg.gate.metric),
        "parity": facts.parity,
        "endpoint": facts.endpoint,
        "timings_s": {name: round(seconds, 2) for name, seconds in view.timings.items()},
    }
    close_run(workdir, facts.result)


def _headline(evaluation: Any, metric: str) -> dict[str, Any]:
    if evaluation is None:
        return {}
    chosen = {name: variant.metrics.get(metric) for name, variant in evaluation.variants.items()}
    return {name: interval.model_dump() for name, interval in chosen.items() if interval is not None}


def _write_report(cfg: RunConfig, workdir: Path, facts: _Facts, timings: Mapping[str, float]) -> Path:
    from luthier.trainers.evaluation import write_confusion_png, write_report

    assert facts.trained is not None and facts.judgement is not None
    judgement, path = facts.judgement, workdir / "report.html"
    answers = {name: [one.answer.text for one in scored] for name, scored in judgement.scored.items()}
    examples = [
        {**row, **{name: texts[index] for name, texts in answers.items()}} for index, row in enumerate(judgement.rows)
    ]
    write_report(
        path,
        title=cfg.name,
        evaluation=judgement.evaluation,
        history=facts.trained.metrics,
        sweep=json.loads(facts.sweep.model_dump_json()) if facts.sweep else None,
        timings=timings,
        manifest=facts.trained.manifest,
        gate=judgement.decision,
        config_yaml=dump_yaml(cfg),
        examples=examples,
        parity=facts.parity,
        endpoint=facts.endpoint,
    )
    if judgement.evaluation.labels:
        write_confusion_png(workdir / "confusion.png", judgement.evaluation, "tuned")
    return path
