"""The sweep's outcome for people and for files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.config import RunConfig, dump_yaml
from luthier.digests import atomic_write_text
from luthier.errors import OutputError
from luthier.sweep_schema import SweepResult
from luthier.tuning.space import final_config

if TYPE_CHECKING:
    from rich.table import Table

_STATUS_STYLE = {"finished": "green", "stopped": "yellow", "failed": "red"}


def leaderboard_table(result: SweepResult) -> Table:
    """A rich table of all trials, the winner first."""
    from rich.markup import escape
    from rich.table import Table

    caption = f"{len(result.trials)} trials, {result.max_concurrent_trials} at a time, {result.wall_s:.0f} s"
    reasons = [f"{trial.trial_id} failed: {trial.reason}" for trial in result.trials if trial.status == "failed"]
    table = Table(
        title=f"Sweep by {result.metric} ({result.mode})", caption="\n".join((caption, *map(escape, reasons)))
    )
    table.add_column("#", justify="right")
    table.add_column("trial", no_wrap=True)
    paths = list(dict.fromkeys(path for trial in result.trials for path in trial.params))
    for path in paths:
        table.add_column(escape(path.removeprefix("train.")), justify="right")
    table.add_column(result.metric, justify="right", no_wrap=True)
    table.add_column("evals", justify="right")
    table.add_column("s", justify="right")
    table.add_column("status", no_wrap=True)
    for rank, trial in enumerate(result.ranked(), start=1):
        style = "bold" if trial.trial_id == result.best_trial_id else None
        table.add_row(
            str(rank),
            trial.trial_id,
            *(escape(_cell(trial.params.get(path))) for path in paths),
            "-" if trial.metric is None else f"{trial.metric:.4f}",
            str(len(trial.history)),
            f"{trial.wall_s:.1f}",
            f"[{_STATUS_STYLE[trial.status]}]{trial.status}[/]",
            style=style,
        )
    return table


def write_outcome(cfg: RunConfig, result: SweepResult, workdir: Path) -> None:
    """Write ``leaderboard.json`` and ``winner.yaml`` (the winner at full length, without the sweep).

    Raises:
        OutputError: The directory can't be written.
    """
    text = json.dumps(result.model_dump(mode="json"), indent=2, allow_nan=False)
    try:
        atomic_write_text(workdir / "leaderboard.json", text + "\n")
        atomic_write_text(workdir / "winner.yaml", dump_yaml(final_config(cfg, result.winning_overrides)))
    except OSError as error:
        raise OutputError(f"the sweep's outcome can't be written to {str(workdir)!r}: {error}.") from error


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return "-" if value is None else str(value)
