"""The stage between a registered version and its alias: how it answers where it is served."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from luthier import live
from luthier.config import RunConfig
from luthier.errors import ConfigError, GateRefused
from luthier.preflight import check_port
from luthier.rundir import api_key, scratch_directory
from luthier.view import View

if TYPE_CHECKING:
    from luthier.judging import Judgement
    from luthier.registry import ModelVersion
    from luthier.served_schema import Percentiles, ServedRecord
    from luthier.serving import Endpoint, ParityReport, ScoreReport
    from luthier.trainers.generate import Scored


def compare_and_measure(
    cfg: RunConfig, endpoint: Endpoint, version: ModelVersion, judgement: Judgement, view: View
) -> tuple[ParityReport | ScoreReport, ServedRecord]:
    """Ask a live endpoint the first test rows, and keep with the version how its answers compare and how fast they came.

    Args:
        cfg: The configuration.
        endpoint: Serves the version.
        version: Who is asked.
        judgement: Holds the trainer's own answers.
        view: Shows what happens.

    Raises:
        ServingError: The endpoint does not answer, or not as the trained model does, unless ``gate.parity`` is
            ``ignored``; what was measured is kept all the same.
    """
    from luthier.registry import Registry

    sample = judgement.scored["tuned"][: cfg.serve.parity_rows]
    with view.stage("parity", f"Comparing {len(sample)} served answers with the trainer's"):
        report, record = (_asked if cfg.train.answers_prompts else _classified)(cfg, endpoint, version, sample)
        view.note(report.summary())
        Registry(cfg.registry.uri, cfg.registry.alias).add_served(version, record)
        if cfg.gate.parity != "ignored":
            report.require()
    return report, record


def _asked(
    cfg: RunConfig, endpoint: Endpoint, version: ModelVersion, sample: Sequence[Scored]
) -> tuple[ParityReport, ServedRecord]:
    from luthier.served_schema import Percentiles
    from luthier.serving import check_parity, greet

    key = os.environ[cfg.serve.api_key_env]
    concurrency = min(cfg.serve.max_num_seqs, len(sample))
    greet(endpoint, version.ref, key)  # what an engine does once, at its first request, is no user's wait
    report = check_parity(
        endpoint,
        version.ref,
        [one.answer for one in sample],
        tolerance=cfg.serve.parity_tolerance,
        api_key=key,
        concurrency=concurrency,
    )
    gaps_ms = [row.inter_token_ms for row in report.rows if row.inter_token_ms is not None]
    return report, _record(
        cfg,
        endpoint,
        version,
        report,
        first_token_s=Percentiles.of([row.first_token_s for row in report.rows]),
        inter_token_ms=Percentiles.of(gaps_ms) if gaps_ms else None,
        concurrency=concurrency,
    )


def _classified(
    cfg: RunConfig, endpoint: Endpoint, version: ModelVersion, sample: Sequence[Scored]
) -> tuple[ScoreReport, ServedRecord]:
    from luthier.serving import check_scores

    report = check_scores(
        endpoint,
        version.ref,
        [one.classified for one in sample if one.classified is not None],
        max_length=min(cfg.data.max_length, cfg.serve.max_model_len),
        tolerance=cfg.serve.parity_tolerance,
        api_key=os.environ[cfg.serve.api_key_env],
        concurrency=cfg.serve.max_num_seqs,
    )
    return report, _record(cfg, endpoint, version, report, concurrency=cfg.serve.max_num_seqs)


def put_before_gate(
    cfg: RunConfig, version: ModelVersion, judgement: Judgement, record: ServedRecord | None
) -> Judgement:
    """The judgement with what the gate asks of a version's answers where it is served."""
    from luthier.costing import with_costs
    from luthier.limits import served_checks

    decision = judgement.decision.also(served_checks(record, cfg.gate, version.ref))
    return replace(judgement, decision=decision, evaluation=with_costs(cfg, judgement.evaluation, record))


def require_passed(version: ModelVersion, judgement: Judgement) -> None:
    """Refuse what the gate does not let pass.

    Raises:
        GateRefused: It did not; the version stays registered.
    """
    if not judgement.decision.passed:
        raise GateRefused(
            f"the gate refused {version.ref}: {'; '.join(judgement.decision.refusals)} It stays registered, without the alias; give "
            f"the endpoint more (serve.*) and run luthier evaluate {version.ref} --serve --promote, or change gate.*"
        )


def check_measurable(cfg: RunConfig, version: ModelVersion | None) -> None:
    """Find out before any work whether a version can be served to be measured.

    Raises:
        ConfigError: It is not registered, is no chat model, or the port is taken.
    """
    if version is None:
        raise ConfigError("--serve measures a registered version; name it as MODEL@VERSION.")
    if not cfg.train.is_served:
        raise ConfigError(
            f"--serve asks a model that can be served, and {version.ref} is one of train.objective: {cfg.train.objective}, which is "
            "not; leave it out."
        )
    check_port(cfg)


def serve_once(cfg: RunConfig, base_model_dir: Path, version: ModelVersion, judgement: Judgement, view: View) -> None:
    """Bring an endpoint up, measure a version on it, and take it down.

    Raises:
        ServingError: As :func:`compare_and_measure`.
    """
    from luthier.serving import stop

    with scratch_directory(cfg, "serve-") as directory, api_key(cfg, directory):
        endpoint = live.go_live(cfg, base_model_dir, [version.ref], view)
        try:
            compare_and_measure(cfg, endpoint, version, judgement, view)
        finally:
            with view.stage("stop", "Stopping the endpoint"):
                stop(endpoint)


def _record(
    cfg: RunConfig,
    endpoint: Endpoint,
    version: ModelVersion,
    report: ParityReport | ScoreReport,
    *,
    first_token_s: Percentiles | None = None,
    inter_token_ms: Percentiles | None = None,
    concurrency: int,
) -> ServedRecord:
    from luthier.registry import system_user
    from luthier.served_schema import ParityCounts, ServedRecord

    told = report.as_dict()
    return ServedRecord(
        manifest_sha256=version.registration.manifest_sha256,
        parity=ParityCounts(
            same=told["same"],
            near_tie=told["near-tie"],
            mismatch=told["mismatch"],
            other_prompt=told.get("other-prompt", 0),
            tolerance=report.tolerance,
        ),
        first_token_s=first_token_s,
        inter_token_ms=inter_token_ms,
        concurrency=concurrency,
        dtype=endpoint.dtype,
        device="gpu" if cfg.train.use_gpu else "cpu",
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        measured_by=system_user(),
    )
