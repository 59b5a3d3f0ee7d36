"""``luthier models``: the registry."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from luthier.cli.options import AsJson, DryRun, RegistryUri, emit, load

if TYPE_CHECKING:
    from luthier.registry import ModelVersion, Registry

models = typer.Typer(help="Registered models: versions and aliases.", no_args_is_help=True, rich_markup_mode=None)

Reference = Annotated[str, typer.Argument(metavar="MODEL[@VERSION|@ALIAS]")]
Alias = Annotated[str, typer.Option(help="The alias.")]
Reason = Annotated[str, typer.Option(help="Why, for the audit record.")]
Force = Annotated[bool, typer.Option("--force", help="Pass over the gate; the audit record says so.")]


@models.command("list")
def list_models(registry: RegistryUri = "registry", as_json: AsJson = False) -> None:
    """Every version with its aliases."""
    from rich.table import Table

    from luthier.registry import Registry

    versions = Registry(registry).list()
    table = Table("version", "aliases", "base model", "method", "made", "lineage")
    for one in versions:
        described = one.manifest
        facts = (described.base_model.model_name_or_path, described.method, str(described.created_at)[:19])
        table.add_row(one.ref, ", ".join(one.aliases), *facts, described.lineage_id[:12])
    emit([_facts(one) for one in versions], as_json=as_json, text=table)


@models.command()
def show(model: Reference, registry: RegistryUri = "registry", as_json: AsJson = False) -> None:
    """One version: manifest, evaluation, what was measured of it, and the history of its name."""
    from luthier.registry import Registry

    store = Registry(registry)
    version = store.resolve(model)
    history = [change.model_dump(mode="json") for change in store.history(version.name)]
    manifest = version.manifest.model_dump(mode="json")
    judged = version.registration.evaluation_sha256 is not None
    evaluation = store.get_evaluation(version.ref) if judged else None
    measured = store.served(version)
    facts = {"manifest": manifest, "evaluation": evaluation, "served": measured and measured.model_dump(mode="json")}
    emit({**_facts(version), **facts, "history": history}, as_json=as_json)


@models.command()
def add(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="A whole transformers model, such as a merged export.")
    ],
    config: Annotated[str, typer.Option(help="YAML file of the run by which it is judged and promoted.")] = "",
    registry: RegistryUri = "registry",
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Register a whole model that lies in a directory. No alias moves."""
    from luthier.api import add as register

    cfg = load(config, None) if config else None
    version = register(name, directory, registry_uri=registry, cfg=cfg, dry_run=dry_run)
    text = f"would register {name}" if version is None else f"registered {version.ref}"
    emit({"version": version and version.ref, "dry_run": dry_run}, as_json=as_json, text=text)


@models.command()
def promote(
    model: Reference,
    alias: Alias = "champion",
    reason: Reason = "promoted by hand",
    force: Force = False,
    registry: RegistryUri = "registry",
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Move an alias to a version that passes the gate of its config by what is stored with it."""
    from luthier.registry import Registry, system_user

    store = Registry(registry)
    version = store.resolve(model)
    before = store.aliases(version.name).get(alias, 0)
    figures = _gate(store, version, alias, force=force)
    if not dry_run:
        number, actor = version.version, system_user()
        store.set_alias(
            version.name, alias, number, actor, reason, figures=figures, expected_version=before, forced=force
        )
    _tell_move(version, alias, dry_run=dry_run, as_json=as_json)


@models.command()
def canary(
    model: Reference,
    weight: Annotated[float, typer.Option(help="Share of the alias's requests, between 0 and 1; 0 ends the canary.")],
    alias: Alias = "champion",
    reason: Reason = "canary by hand",
    force: Force = False,
    registry: RegistryUri = "registry",
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Let a version that passes the gate answer a share of an alias's requests; endpoints end it if it fails."""
    from luthier.registry import Registry, system_user

    store = Registry(registry)
    version = store.resolve(model)
    if weight == 0.0:
        if not dry_run:
            store.end_canary(version.name, alias, system_user(), reason)
    else:
        figures = _gate(store, version, alias, force=force)
        if not dry_run:
            store.begin_canary(
                version.name, alias, version.version, weight, system_user(), reason, figures=figures, forced=force
            )
    facts = {"version": version.ref, "alias": alias, "weight": weight, "dry_run": dry_run}
    verb = "would answer" if dry_run else "answers"
    emit(facts, as_json=as_json, text=f"{version.ref} {verb} {weight:.0%} of {version.name}@{alias}")


def _gate(store: Registry, version: ModelVersion, alias: str, *, force: bool) -> dict[str, float]:
    """The figures that passed the gate; where it is passed over, those that are known."""
    from luthier.promotion import check_promotion, known_figures

    return known_figures(store, version) if force else check_promotion(store, version, alias)


@models.command()
def rollback(
    name: Annotated[str, typer.Argument(metavar="MODEL")],
    alias: Alias = "champion",
    registry: RegistryUri = "registry",
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Move an alias back to the version that it pointed to before."""
    from luthier.registry import Registry

    store = Registry(registry)
    version = store.earlier(name, alias) if dry_run else store.rollback(name, alias)
    _tell_move(version, alias, dry_run=dry_run, as_json=as_json)


def _tell_move(version: ModelVersion, alias: str, *, dry_run: bool, as_json: bool) -> None:
    facts = {"version": version.ref, "alias": alias, "dry_run": dry_run}
    verb = "would be" if dry_run else "is"
    emit(facts, as_json=as_json, text=f"{version.name}@{alias} {verb} {version.ref}")


def _facts(version: ModelVersion) -> dict[str, Any]:
    return {"version": version.ref, "aliases": list(version.aliases), "uri": version.uri}
