"""``luthier preflight``: what would stop a run, looked for on every node."""

from __future__ import annotations

from typing import Annotated

import typer

from luthier.cli.options import AsJson, ConfigPath, DryRun, Overrides, emit, load, show_plan


def preflight(
    config: ConfigPath,
    overrides: Overrides = None,
    address: Annotated[str, typer.Option(help="Look at this cluster: HEAD:6379.")] = "",
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Look on every node for what would stop a run; nothing is left behind. Exits with 2 if there is anything."""
    cfg = load(config, [*(overrides or ()), *([f"cluster.address={address}"] if address else ())])
    if dry_run:
        return show_plan(cfg, as_json=as_json)
    from luthier.cluster.preflight import examine
    from luthier.preflight import checks_of_run

    report = examine(cfg, also=checks_of_run(cfg), port=True)
    emit(report.as_dict(), as_json=as_json, text=report.table())
    if not report.passed:
        raise typer.Exit(2)
