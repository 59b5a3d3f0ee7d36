"""Arguments that several verbs share, and how results are printed."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from luthier.cluster import Plan, Supply
    from luthier.cluster.planning.costs import Prices
    from luthier.config import RunConfig
    from luthier.view import View

ConfigPath = Annotated[str, typer.Argument(metavar="CONFIG", help="YAML file of the run.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[key=value]...", help="Dotted overrides, such as train.learning_rate=1e-4."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the resolved config and the plan; do nothing.")]
RegistryUri = Annotated[str, typer.Option("--registry", help="Directory or fsspec URI of the registry.")]
Address = Annotated[
    str | None,
    typer.Option(help="Dashboard address of the cluster; without one $RAY_ADDRESS, or else http://127.0.0.1:8265."),
]


def load(config: str, overrides: list[str] | None) -> RunConfig:
    """The checked configuration."""
    from luthier.config import load_config
    from luthier.secret_refs import apply_secrets

    cfg = load_config(config, overrides or ())
    apply_secrets(cfg)
    return cfg


def view(*, as_json: bool) -> View:
    """Progress on stderr: bars, or in a job events for those who follow it; with ``as_json`` none."""
    from rich.console import Console

    from luthier import events
    from luthier.bars import Bars
    from luthier.console_view import ConsoleView
    from luthier.view import QuietView

    if as_json:
        return QuietView()
    console = Console(stderr=True)
    return ConsoleView(console, events.BarEvents(sys.stderr) if events.wanted() else Bars(console))


def emit(result: Any, *, as_json: bool, text: Any = None) -> None:
    """Print a result: as JSON, or as a table or text for people (JSON where there is none); in a job it is an event
    too."""
    from luthier import events

    if events.wanted() and result is not None:
        typer.echo(events.line_of("result", result))
    if as_json or text is None:
        typer.echo(json.dumps(result, indent=None if as_json else 1, default=str))
        return
    if isinstance(text, str):
        typer.echo(text)  # whole and as it is: paths and commands are there to be copied
        return
    from rich.console import Console

    Console().print(text)


def make_plan(
    cfg: RunConfig, *, supply: Supply | None = None, prices: Prices | None = None, measure_speed: bool = False
) -> Plan:
    """The plan of a run whose sweep, if any, has a valid space; see :func:`luthier.cluster.planning.plan.plan`."""
    from luthier.cluster import plan

    if cfg.tune is not None:
        from luthier.tuning import check_space

        check_space(cfg)
    return plan(cfg, supply=supply, prices=prices, measure_speed=measure_speed)


def show_plan(cfg: RunConfig, *, as_json: bool) -> None:
    """What ``--dry-run`` prints: the plan and the resolved config."""
    from luthier.cluster import plan_table
    from luthier.config import config_hash, dump_yaml

    planned = make_plan(cfg)
    if as_json:
        facts = {"config": cfg.model_dump(mode="json"), "config_hash": config_hash(cfg)}
        emit({**facts, "plan": planned.model_dump(mode="json")}, as_json=True)
        return
    emit(None, as_json=False, text=plan_table(planned))
    typer.echo(f"# config hash {config_hash(cfg)}\n{dump_yaml(cfg)}")
