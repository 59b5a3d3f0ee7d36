"""The verbs of a life cycle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from luthier.cli.jobs import jobs
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

app = typer.Typer(
    name="luthier",
    help="Fine-tune language models on a Ray cluster, from data to a live endpoint.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data = typer.Typer(help="Look at data before training.", no_args_is_help=True)
app.add_typer(data, name="data")
app.add_typer(models, name="models")
jobs(app)


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
    emit(result, as_json=as_json, text=f"{result['version']} was live; report: {result['report']}")


@app.command()
def train(config: ConfigPath, overrides: Overrides = None, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Fine-tune with Ray Train, without a sweep."""
    cfg = load(config, overrides)
    if dry_run:
        return show_plan(cfg, as_json=as_json)
    from luthier.api import train as train_only

    result = train_only(cfg, view(as_json=as_json))
    facts = {
        "artifact_dir": str(result.artifact_dir),
        "best_step": result.best_step,
        "metrics": result.manifest.metrics,
        "lineage_id": result.manifest.lineage_id,
    }
    emit(facts, as_json=as_json, text=f"artifact: {result.artifact_dir}")


@app.command()
def tune(config: ConfigPath, overrides: Overrides = None, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Search hyperparameters with Ray Tune on a validation metric."""
    cfg = load(config, overrides)
    if dry_run:
        return show_plan(cfg, as_json=as_json)
    from luthier.api import tune as tune_only

    result = tune_only(cfg, view(as_json=as_json))
    emit(result.model_dump(mode="json"), as_json=as_json, text=f"winner: {result.winning_overrides}")


@app.command()
def evaluate(
    target: Annotated[str, typer.Argument(metavar="CONFIG|MODEL@VERSION", help="A run's YAML, or a registered model.")],
    overrides: Overrides = None,
    registry: RegistryUri = "registry",
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Judge a trained model on the test split, against base and few-shot."""
    from luthier.api import evaluate as judge
    from luthier.api import resolve_target

    cfg, artifact_dir = resolve_target(target, overrides or [], registry)
    if dry_run:
        return show_plan(cfg, as_json=as_json)
    judgement = judge(cfg, artifact_dir, view(as_json=as_json))
    facts = judgement.evaluation.model_dump(mode="json")
    passed = judgement.decision.passed
    emit(facts | {"gate_passed": passed}, as_json=as_json, text=f"gate {'passed' if passed else 'refused'}")
    if not passed:
        raise typer.Exit(3)


@app.command()
def serve(
    models: Annotated[list[str] | None, typer.Argument(metavar="[MODEL[@VERSION|@ALIAS]]...")] = None,
    config: Annotated[str, typer.Option("--config", help="YAML file of the run; its serve section counts.")] = "",
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Serve registered models with vLLM behind an OpenAI-compatible endpoint until Ctrl-C."""
    if not config:
        raise typer.BadParameter("name the run's YAML file", param_hint="--config")
    cfg = load(config, None)
    if dry_run:
        return show_plan(cfg, as_json=as_json)
    from luthier.api import serve as serve_until_stopped

    serve_until_stopped(cfg, models or [f"{cfg.name}@{cfg.registry.alias}"], view(as_json=as_json))


@app.command()
def plan(config: ConfigPath, overrides: Overrides = None, as_json: AsJson = False, dry_run: DryRun = False) -> None:
    """Memory, tokens, steps and whether the cluster can hold it, without loading weights."""
    cfg = load(config, overrides)
    if dry_run:
        return show_plan(cfg, as_json=as_json)
    from luthier.cluster import plan as make_plan
    from luthier.cluster import plan_table

    planned = make_plan(cfg)
    emit(planned.model_dump(mode="json"), as_json=as_json, text=plan_table(planned))


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
    emit({"output": str(output), "files": files}, as_json=as_json, text=f"{output}: {', '.join(files)}")


@app.command()
def schema() -> None:
    """Print the configuration's JSON schema."""
    import json

    from luthier.config import json_schema

    typer.echo(json.dumps(json_schema(), indent=1))


@data.command("check")
def data_check(
    config: ConfigPath, overrides: Overrides = None, dry_run: DryRun = False, as_json: AsJson = False
) -> None:
    """Read, check and tokenise every split; refuse bad rows by file and line. Nothing is trained."""
    cfg = load(config, overrides)
    if dry_run:
        return show_plan(cfg, as_json=as_json)
    from luthier.api import check_data

    report = check_data(cfg, view(as_json=as_json))
    emit(report.as_dict(), as_json=as_json, text="data is usable")
