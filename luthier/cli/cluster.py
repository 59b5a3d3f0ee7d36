"""Verbs that start clusters, or write what starts them elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from luthier.cli.options import AsJson, emit

if TYPE_CHECKING:
    from luthier.cluster.local.control import Facts

cluster = typer.Typer(
    help="Start a cluster on this machine, or write the recipe of another.", no_args_is_help=True, rich_markup_mode=None
)

Directory = Annotated[
    Path | None,
    typer.Option(help="Where the cluster's state lies; without one ~/.local/state/luthier/cluster."),
]
NothingDone = Annotated[bool, typer.Option("--dry-run", help="Print what would be done; do nothing.")]


@cluster.command("up")
def cluster_up(
    directory: Directory = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for every network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port by which nodes join.")] = 6379,
    dashboard_port: Annotated[int, typer.Option(help="Port of the dashboard and the job server.")] = 8265,
    num_cpus: Annotated[int | None, typer.Option(help="Logical CPUs; without one the machine's.")] = None,
    num_gpus: Annotated[int | None, typer.Option(help="Logical GPUs; without one the machine's.")] = None,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Hold it up in this process, for systemd and containers.")
    ] = False,
    dry_run: NothingDone = False,
    as_json: AsJson = False,
) -> None:
    """Start a Ray cluster on this machine: token, state on disk, dashboard; started again when it dies."""
    from luthier.cluster.local import control

    where, settings = _place(directory), _settings(host, port, dashboard_port, num_cpus, num_gpus)
    if dry_run:
        return emit(control.describe(where, settings), as_json=as_json)
    if not settings.is_local:
        typer.echo(
            f"warning: listens on {host}. Whoever has the token runs code here, and the token travels unencrypted: keep "
            "these ports within a network that you trust.",
            err=True,
        )
    if foreground:
        import logging

        logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
        raise typer.Exit(control.hold(where, settings))
    before = control.status(where)
    facts = control.up(where, settings)
    again = before is not None and before.state != "stopped"
    emit({**facts.model_dump(), "was_running": again}, as_json=as_json, text=_told(facts, already=again))


@cluster.command("down")
def cluster_down(
    directory: Directory = None,
    forget: Annotated[bool, typer.Option("--forget", help="Delete its job records and logs too.")] = False,
    dry_run: NothingDone = False,
    as_json: AsJson = False,
) -> None:
    """Stop the cluster of this machine, and all that it runs; its job records stay."""
    from luthier.cluster.local import control

    where = _place(directory)
    if dry_run:
        facts = control.status(where)
        running = facts is not None and facts.state != "stopped"
        text = f"would stop the cluster of {where}" if running else f"no cluster of {where} runs"
        return emit(
            {"directory": str(where), "would_stop": running, "would_forget": forget}, as_json=as_json, text=text
        )
    stopped = control.down(where, forget=forget)
    text = "stopped" if stopped else f"no cluster of {where} ran"
    text += "; its state is deleted" if forget else ""
    emit({"directory": str(where), "stopped": stopped, "forgotten": forget}, as_json=as_json, text=text)


@cluster.command("status")
def cluster_status(directory: Directory = None, as_json: AsJson = False) -> None:
    """Whether the cluster of this machine runs, and where; exits with 1 where it does not."""
    from luthier.cluster.local import control

    where = _place(directory)
    facts = control.status(where)
    shown: dict[str, Any] = facts.model_dump() if facts else {"state": "stopped", "directory": str(where)}
    emit(shown, as_json=as_json, text=_told(facts) if facts else f"no cluster of {where}")
    if shown["state"] != "running":
        raise typer.Exit(1)


@cluster.command("recipe")
def cluster_recipe(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Which recipe, or all.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="key=value", help="A key of the cluster's description.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Directory to write to; without one it is printed.")] = None,
    dry_run: NothingDone = False,
    as_json: AsJson = False,
) -> None:
    """Write what starts a cluster elsewhere: aws, gcp, onprem, rayjob, rayservice, slurm, container, or all."""
    from luthier.cluster.recipes.render import FILES, make_recipe, render, write

    recipe = make_recipe(settings or [])
    names = list(FILES) if name == "all" else [name]
    texts = {FILES.get(one, one): render(recipe, one) for one in names}
    if output is None:
        facts = {"recipe": recipe.model_dump(mode="json"), "files": texts}
        return emit(facts, as_json=as_json, text="\n".join(text.rstrip("\n") for text in texts.values()))
    paths = [str(output / file) for file in texts] if dry_run else [str(path) for path in write(recipe, names, output)]
    emit({"files": paths, "dry_run": dry_run}, as_json=as_json, text="\n".join(paths))


def _place(directory: Path | None) -> Path:
    from luthier.cluster.local.settings import default_directory

    return (directory or default_directory()).expanduser().absolute()


def _settings(host: str, port: int, dashboard_port: int, num_cpus: int | None, num_gpus: int | None) -> Any:
    from pydantic import ValidationError

    from luthier.cluster.local.settings import Settings
    from luthier.errors import ConfigError

    try:
        return Settings(host=host, port=port, dashboard_port=dashboard_port, num_cpus=num_cpus, num_gpus=num_gpus)
    except ValidationError as error:
        first = error.errors()[0]
        option = "--" + str(first["loc"][0]).replace("_", "-")
        raise ConfigError(f"{option} is {first['input']!r}: {first['msg']}.") from error


def _told(facts: Facts, *, already: bool = False) -> str:
    lines = [
        f"cluster {'runs already' if already else facts.state}",
        f"address    {facts.address}",
        f"token      {facts.token}",
        f"state      {facts.directory}",
    ]
    if facts.state != "stopped":
        lines += [f"keeper     process {facts.keeper_pid}", "", facts.submit]
    return "\n".join(lines)
