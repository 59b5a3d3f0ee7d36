"""``luthier serve``: registered models behind an endpoint."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from luthier.cli.options import AsJson, DryRun, emit, load, show_plan, view


def serve(
    models: Annotated[list[str] | None, typer.Argument(metavar="[MODEL[@VERSION|@ALIAS]]...")] = None,
    config: Annotated[str, typer.Option("--config", help="YAML file of the run; its serve section counts.")] = "",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of the config; several: again.")
    ] = None,
    detach: Annotated[
        bool,
        typer.Option(
            "--detach", help="Leave it to a running cluster; an endpoint that is there changes as it answers."
        ),
    ] = False,
    down: Annotated[bool, typer.Option("--down", help="Stop the endpoint that runs on the cluster.")] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Serve registered models with vLLM behind an OpenAI-compatible endpoint, until Ctrl-C or detached.

    With --json one object is printed once the endpoint is live: base_url, models and, until Ctrl-C, api_key_file.
    """
    if not config:
        raise typer.BadParameter("name the run's YAML file", param_hint="--config")
    if down and (detach or models):
        raise typer.BadParameter("it stops what runs, whichever models that serves", param_hint="--down")
    cfg = load(config, overrides)
    if dry_run:
        return show_plan(cfg, as_json=as_json)
    from luthier import endpoints

    if down:
        endpoints.take_down(cfg, view(as_json=as_json))
        return emit({"stopped": True}, as_json=as_json, text="stopped")
    if detach:
        facts = endpoints.serve_detached(cfg, models or (), view(as_json=as_json))
        return emit(facts, as_json=as_json, text=f"{facts['base_url']} serves {', '.join(facts['models'])}")

    def announce(facts: dict[str, Any]) -> None:
        emit(facts, as_json=True)

    endpoints.serve(cfg, models or (), view(as_json=as_json), on_live=announce if as_json else None)
