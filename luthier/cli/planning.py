"""The verb that tells what a run will need."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from luthier.cli.options import AsJson, ConfigPath, DryRun, Overrides, emit, load, make_plan, show_plan


def plan(
    config: ConfigPath,
    overrides: Overrides = None,
    address: Annotated[str, typer.Option(help="Ask this cluster what it has: http://HEAD:8265 or HEAD:6379.")] = "",
    cluster_config: Annotated[
        Path | None, typer.Option(help="The YAML of Ray's autoscaler: what the cluster may grow to.")
    ] = None,
    prices: Annotated[Path | None, typer.Option(help="Your own price table; docs/plan.md has the format.")] = None,
    as_json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Memory, disk, hours, cost, and when the cluster can hold it, without loading weights."""
    cfg = load(config, overrides)
    if dry_run:
        return show_plan(cfg, as_json=as_json)
    from luthier.cluster import plan_table
    from luthier.cluster.planning.asking import ask_supply
    from luthier.cluster.planning.costs import read_prices
    from luthier.cluster.planning.supply import combined

    table = read_prices(prices)
    supply = combined(ask_supply(cfg, address) if address else None, cluster_config)
    planned = make_plan(cfg, supply=supply, prices=table, measure_speed=True)
    emit(planned.model_dump(mode="json"), as_json=as_json, text=plan_table(planned))
