"""The sweep's outcome for people and for files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from luthier.config import RunConfig, dump_yaml
from luthier.digests import atomic_write_bytes, atomic_write_text
from luthier.errors import OutputError
from luthier.sweep_schema import SweepResult, TrialResult
from luthier.tuning.analysis import as_json, standings
from luthier.tuning.report import sweep_page
from luthier.tuning.selection import selection_note
from luthier.tuning.space import final_config
from luthier.tuning.table import as_csv, as_parquet, trial_records
from luthier.tuning.wording import (
    agreement_text,
    agreement_warning,
    charged_resource,
    distinct_texts,
    metric_of,
    metrics_of,
    params_of,
    reasons_of,
    seeds_text,
    short_names,
    spent_text,
)

if TYPE_CHECKING:
    from rich.table import Table

_STATUS_STYLE = {"finished": "green", "stopped": "yellow", "failed": "red"}

_VALUES = "values"

_LEFT = ("trial", _VALUES, "status")

_MAX_PARAM_COLUMNS = 3
"""More parameters share a column, so that the table fits a terminal."""

_MAX_CELL_CHARS = 24

_MAX_ROWS = 40
"""More trials than this are left to the files."""

_MAX_REASONS = 8
"""Different reasons of failure below the table."""

_MAX_NAMED = 3
"""Trials that are named beside one reason."""


def leaderboard_table(result: SweepResult) -> Table:
    """A rich table of the trials, the winner first; of a large sweep the best 40.

    A ``*`` marks the Pareto front. More than three parameters share a column. Columns that would be empty are left out:
    more metrics, intervals over seeds, attempts; time is the seconds that GPUs or CPUs were held, where that is known.
    What the sweep cost, whether early validations foretell the end, and why trials failed stand below.
    """
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"Sweep by {escape(result.metric)} ({result.mode})", caption="\n".join(_footer(result)))
    columns = _columns(result)
    table.add_column("#", justify="right")
    for name, _ in columns:
        justify: Literal["left", "right"] = "left" if name in _LEFT else "right"
        table.add_column(escape(name), justify=justify, no_wrap=name != _VALUES, overflow="fold")
    for rank, trial in enumerate(standings(result)[:_MAX_ROWS], start=1):
        cells = [escape(cell(trial)) for _, cell in columns]
        cells[-1] = f"[{_STATUS_STYLE[trial.status]}]{cells[-1]}[/]"
        table.add_row(str(rank), *cells, style="bold" if trial.trial_id == result.best_trial_id else None)
    return table


def _columns(result: SweepResult) -> list[tuple[str, Callable[[TrialResult], str]]]:
    """Header and text of a trial's cell, from left to right; the status is the last."""
    columns: list[tuple[str, Callable[[TrialResult], str]]] = [
        ("trial", lambda trial: f"{trial.trial_id} *" if trial.trial_id in result.pareto else trial.trial_id)
    ]
    params = [(name, partial(_param, path, texts)) for path, name, texts in _params(result)]
    if len(params) <= _MAX_PARAM_COLUMNS:
        columns += params
    else:
        columns.append(
            (_VALUES, lambda trial: "  ".join(f"{n}={t}" for n, cell in params if (t := cell(trial)) != "-"))
        )
    columns += [(metric, partial(_metric, metric, result)) for metric in metrics_of(result)]
    if result.finalists:
        seeds = {finalist.trial_id: seeds_text(finalist) for finalist in result.finalists}
        columns.append(("over seeds", lambda trial: seeds.get(trial.trial_id, "")))
    columns.append(("evals", lambda trial: str(len(trial.history))))
    if resource := charged_resource(result.trials):
        columns.append((f"{resource} s", lambda trial: f"{trial.held.get(resource, 0.0):.1f}"))
    else:
        columns.append(("s", lambda trial: f"{trial.wall_s:.1f}"))
    if any(trial.attempts > 1 for trial in result.trials):
        columns.append(("attempts", lambda trial: str(trial.attempts)))
    return [*columns, ("status", lambda trial: trial.status)]


def _params(result: SweepResult) -> list[tuple[str, str, dict[str, str]]]:
    """Path, short name and texts of the values of each parameter."""
    names = short_names(params_of(result.trials))
    return [
        (path, name, distinct_texts((t.params[path] for t in result.trials if path in t.params), _MAX_CELL_CHARS))
        for path, name in names.items()
    ]


def _param(path: str, texts: Mapping[str, str], trial: TrialResult) -> str:
    return texts[as_json(trial.params[path])] if path in trial.params else "-"


def _metric(metric: str, result: SweepResult, trial: TrialResult) -> str:
    value = metric_of(trial, metric, result)
    return "-" if value is None else f"{value:.4f}"


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
    if result.pareto:
        lines.append("* on the Pareto front: no other trial beats it in all metrics")
    if spent := spent_text(result):
        lines.append(escape(spent))
    lines += [agreement_text(found) for found in result.rung_agreement[:1]]
    if note := selection_note(result):
        lines.append(escape(note))
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
