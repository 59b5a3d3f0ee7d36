"""``luthier preflight``: what would stop a run, looked for on every node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from luthier.cli.options import AsJson, ConfigPath, DryRun, Overrides, emit, load, show_plan
from luthier.errors import ConfigError

if TYPE_CHECKING:
    from luthier.cluster.resources import Stage

VERBS: dict[str, tuple[Stage, ...]] = {
    "run": ("train", "tune", "serve"),
    "train": ("train",),
    "tune": ("tune",),
    "evaluate": ("train",),
    "serve": ("serve",),
}
"""Verb to the stages that it runs."""


def preflight(
    config: ConfigPath,
    overrides: Overrides = None,
    address: Annotated[str, typer.Option(help="Look at this cluster: HEAD:6379.")] = "",
    verb: Annotated[str, typer.Option(help=f"What is to be run: {', '.join(VERBS)}.")] = "run",
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Look on every node for what would stop a run; nothing is left behind. Exits with 2 if there is anything."""
    cfg = load(config, [*(overrides or ()), *([f"cluster.address={address}"] if address else ())])
    if dry_run:
        return show_plan(cfg, as_json=as_json)
    if verb not in VERBS:
        raise ConfigError(f"--verb is {verb!r}; it must be one of {', '.join(VERBS)}.")
    from luthier.cluster.preflight import examine
    from luthier.preflight import checks_of_run, checks_of_sweep

    also = {"run": checks_of_run, "tune": checks_of_sweep}.get(verb, lambda _: ())(cfg)
    report = examine(cfg, VERBS[verb], also, port="serve" in VERBS[verb])
    emit(report.as_dict(), as_json=as_json, text=report.table())
    if not report.passed:
        raise typer.Exit(2)
