"""The verbs of a life cycle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from luthier.cli.cluster import cluster
from luthier.cli.jobs import jobs
from luthier.cli.keys import keys
from luthier.cli.models import models
from luthier.cli.options import (
    AsJson,
    ConfigPath,
    DryRun,
    Overrides,
    RegistryUri,
    emit,
    load,
    show_plan,
    view,
)
from luthier.cli.planning import plan
from luthier.cli.preflight import preflight
from luthier.cli.queue import queue
from luthier.cli.serving import serve

app = typer.Typer(
    name="luthier",
    help="Fine-tune language models on a Ray cluster, from data to a live endpoint.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich's help costs as much time as everything else together
)
data = typer.Typer(help="Look at data before training.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data, name="data")
app.add_typer(models, name="models")
app.add_typer(keys, name="keys")
app.add_typer(cluster, name="cluster")
app.add_typer(queue, name="queue")
jobs(app)
app.command()(serve)
app.command()(preflight)
app.command()(plan)


@app.command()
def run(
    config: ConfigPath,
    overrides: Overrides = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the endpoint up until Ctrl-C.")] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Whole life cycle: data, sweep, fine-tuning, evaluation, gate, registry, endpoint, one answer."""
    cfg = load(config, overrides)
    if dry_run:
        return show_plan(cfg, as_json=as_json)
    from luthier.pipeline import run as run_all

    result = run_all(cfg, view(as_json=as_json), keep=keep)
    emit(result, as_json=as_json, text=f"{result['version']}: {result['status']}; report: {result['report']}")


@app.command()
def train(config: ConfigPath, overrides: Overrides = None, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Fine-tune with Ray Train, without a sweep."""
    cfg = load(config, overrides)
    if dry_run:
        return show_plan(cfg, as_json=as_json)
    from luthier.api import train as train_only
    from luthier.api import train_facts

    result = train_only(cfg, view(as_json=as_json))
    emit(train_facts(result), as_json=as_json, text=f"artifact: {result.artifact_dir}")


@app.command()
def tune(
    config: ConfigPath,
    overrides: Overrides = None,
    register: Annotated[
        bool,
        typer.Option("--register", help="Train the winner at full length, judge it, and register it as a candidate."),
    ] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Search hyperparameters with Ray Tune on a validation metric."""
    cfg = load(config, overrides)
    if dry_run:
        return show_plan(cfg, as_json=as_json)
    from luthier.api import tune as tune_only

    result = tune_only(cfg, view(as_json=as_json), register=register)
    text = f"winner: {result.winning_overrides}"
    if result.registered_as:
        text += f", registered as {result.registered_as}"
    emit(result.model_dump(mode="json"), as_json=as_json, text=text)


@app.command()
def evaluate(
    target: Annotated[str, typer.Argument(metavar="CONFIG|MODEL@VERSION", help="A run's YAML, or a registered model.")],
    overrides: Overrides = None,
    serve: Annotated[
        bool,
        typer.Option("--serve", help="Serve MODEL@VERSION too: compare its answers with the trainer's, and time them."),
    ] = False,
    promote: Annotated[
        bool, typer.Option("--promote", help="Move the alias to MODEL@VERSION if the gate passes.")
    ] = False,
    registry: RegistryUri = "registry",
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Judge a trained model on the test split, against base, few-shot and the incumbent."""
    from luthier.api import evaluate as judge
    from luthier.api import resolve_target

    found = resolve_target(target, overrides or [], registry)
    if dry_run:
        return show_plan(found.cfg, as_json=as_json)
    judgement = judge(found, view(as_json=as_json), serve=serve, promote=promote)
    facts = judgement.evaluation.model_dump(mode="json")
    passed = judgement.decision.passed
    refused = judgement.decision.refusals
    facts |= {"gate_passed": passed, "gate_refused_by": refused, "output": str(found.output)}
    emit(facts, as_json=as_json, text="gate passed" if passed else "gate refused\n" + "\n".join(refused))
    if not passed:
        raise typer.Exit(3)


@app.command()
def export(
    model: Annotated[str, typer.Argument(metavar="MODEL@VERSION")],
    output: Annotated[Path, typer.Argument(help="Directory to make.")],
    merge: Annotated[bool, typer.Option("--merge", help="Merge the adapter into the base model's weights.")] = False,
    registry: RegistryUri = "registry",
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Write a registered model as a plain peft or transformers directory."""
    from luthier.api import export as write

    files = write(model, output, merge=merge, registry_uri=registry, dry_run=dry_run)
    facts = {"output": str(output), "files": files, "dry_run": dry_run}
    emit(facts, as_json=as_json, text=f"{'would write ' if dry_run else ''}{output}: {', '.join(files)}")


@app.command()
def schema(as_json: AsJson = False) -> None:
    """Print the configuration's JSON schema."""
    from luthier.config import json_schema

    emit(json_schema(), as_json=as_json)


@data.command("check")
def data_check(
    config: ConfigPath,
    overrides: Overrides = None,
    report: Annotated[
        Path | None, typer.Option("--report", help="HTML file of the report; without it data-NAME.html here.")
    ] = None,
    preview: Annotated[
        int, typer.Option("--preview", min=0, help="Show so many training rows, and which of their tokens carry loss.")
    ] = 0,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Read, examine and tokenise every split; refuse bad rows by file and line, and splits that leak. Nothing is trained.

    The report holds no text of the rows, unless --preview asks for it.
    """
    cfg = load(config, overrides)
    if dry_run:
        return show_plan(cfg, as_json=as_json)
    from luthier.api import check_data

    page = report or Path(f"data-{cfg.name}.html")
    found = check_data(cfg, view(as_json=as_json), report=page, preview=preview)
    emit(found.as_dict(), as_json=as_json, text=f"data is usable; report: {page}")
