"""The sweep's outcome for people and for files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.config import RunConfig, dump_yaml
from luthier.digests import atomic_write_bytes, atomic_write_text
from luthier.errors import OutputError
from luthier.sweep_schema import SweepResult, TrialResult
from luthier.tuning.analysis import standings
from luthier.tuning.records import as_csv, as_parquet, trial_records
from luthier.tuning.report import sweep_page
from luthier.tuning.space import final_config
from luthier.tuning.wording import (
    agreement_text,
    agreement_warning,
    charged_resource,
    metric_of,
    metrics_of,
    params_of,
    reasons_of,
    seeds_text,
    short_names,
    spent_text,
    value_text,
)

if TYPE_CHECKING:
    from rich.table import Table

_STATUS_STYLE = {"finished": "green", "stopped": "yellow", "failed": "red"}

_MAX_ROWS = 40
"""More trials than this are left to the files."""

_MAX_REASONS = 8
"""Different reasons of failure below the table."""

_MAX_NAMED = 3
"""Trials that are named beside one reason."""


def leaderboard_table(result: SweepResult) -> Table:
    """A rich table of the trials, the winner first; of a large sweep the best 40.

    Columns that would be empty are left out: more metrics, the Pareto front (``*``), intervals over seeds, the seconds
    that an accelerator or CPU was held, attempts. What the sweep cost, whether early validations foretell the end, and
    why trials failed stand below.
    """
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"Sweep by {escape(result.metric)} ({result.mode})", caption="\n".join(_footer(result)))
    ranked = standings(result)
    paths, metrics = params_of(ranked), metrics_of(result)
    names = short_names(paths)
    resource = charged_resource(ranked)
    seeds = {finalist.trial_id: seeds_text(finalist) for finalist in result.finalists}
    retried = any(trial.attempts > 1 for trial in ranked)
    table.add_column("#", justify="right")
    table.add_column("trial", no_wrap=True)
    for path in paths:
        table.add_column(escape(names[path]), justify="right")
    for metric in metrics:
        table.add_column(escape(metric), justify="right", no_wrap=True)
    for shown, name in ((result.pareto, "Pareto"), (seeds, "over seeds")):
        if shown:
            table.add_column(name, justify="center")
    table.add_column("evals", justify="right")
    table.add_column("s", justify="right")
    if resource:
        table.add_column(f"{resource} s", justify="right")
    if retried:
        table.add_column("attempts", justify="right")
    table.add_column("status", no_wrap=True)
    for rank, trial in enumerate(ranked[:_MAX_ROWS], start=1):
        cells = [str(rank), trial.trial_id]
        cells += [escape(value_text(trial.params[path])) if path in trial.params else "-" for path in paths]
        cells += [_number(metric_of(trial, metric, result)) for metric in metrics]
        cells += [("*" if trial.trial_id in result.pareto else "")] if result.pareto else []
        cells += [seeds.get(trial.trial_id, "")] if seeds else []
        cells += [str(len(trial.history)), f"{trial.wall_s:.1f}"]
        cells += [f"{trial.held.get(resource, 0.0):.1f}"] if resource else []
        cells += [str(trial.attempts)] if retried else []
        cells.append(f"[{_STATUS_STYLE[trial.status]}]{trial.status}[/]")
        table.add_row(*cells, style="bold" if trial.trial_id == result.best_trial_id else None)
    return table


def write_outcome(cfg: RunConfig, result: SweepResult, workdir: Path) -> None:
    """Write what a sweep leaves behind.

    ``leaderboard.json`` is the whole result; ``leaderboard.csv`` and ``leaderboard.parquet`` have one row per trial;
    ``winner.yaml`` is the winner at full length, without the sweep; ``sweep.html`` is the report.

    Raises:
        OutputError: The directory can't be written.
    """
    text = json.dumps(result.model_dump(mode="json"), indent=2, allow_nan=False)
    records = trial_records(result)
    page = sweep_page(cfg.name, result)
    try:
        atomic_write_text(workdir / "winner.yaml", dump_yaml(final_config(cfg, result.winning_overrides)))
        atomic_write_bytes(workdir / "leaderboard.csv", as_csv(records))
        atomic_write_bytes(workdir / "leaderboard.parquet", as_parquet(records))
        atomic_write_text(workdir / "sweep.html", page)
        # Last, as a run that goes on takes it as the sign that the sweep is done.
        atomic_write_text(workdir / "leaderboard.json", text + "\n")
    except OSError as error:
        raise OutputError(f"the sweep's outcome can't be written to {str(workdir)!r}: {error}.") from error


def _footer(result: SweepResult) -> list[str]:
    from rich.markup import escape

    lines = [f"{len(result.trials)} trials, {result.max_concurrent_trials} at a time, {result.wall_s:.0f} s"]
    if len(result.trials) > _MAX_ROWS:
        lines.append(f"{len(result.trials) - _MAX_ROWS} more trials are in leaderboard.csv")
    if spent := spent_text(result):
        lines.append(escape(spent))
    lines += [agreement_text(found) for found in result.rung_agreement[:1]]
    if warning := agreement_warning(result):
        lines.append(f"[yellow]warning: {warning}[/]")
    return [*lines, *map(escape, _failures(result.trials))]


def _failures(trials: tuple[TrialResult, ...]) -> list[str]:
    """One line for each reason, with the trials that failed so."""
    reasons = list(reasons_of(trials).items())
    lines = []
    for reason, ids in reasons[:_MAX_REASONS]:
        more = f" and {len(ids) - _MAX_NAMED} more" if len(ids) > _MAX_NAMED else ""
        lines.append(f"{', '.join(ids[:_MAX_NAMED])}{more} failed: {reason}")
    if len(reasons) > _MAX_REASONS:
        lines.append(f"{len(reasons) - _MAX_REASONS} more reasons are in sweep.html")
    return lines


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
