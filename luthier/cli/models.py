"""``luthier models``: the registry."""

from __future__ import annotations

import getpass
from typing import Annotated, Any

import typer

from luthier.cli.options import AsJson, DryRun, RegistryUri, emit

models = typer.Typer(help="Registered models: versions and aliases.", no_args_is_help=True)

Reference = Annotated[str, typer.Argument(metavar="MODEL[@VERSION|@ALIAS]")]
Alias = Annotated[str, typer.Option(help="The alias.")]


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
    """One version: manifest, evaluation and the history of its name."""
    from luthier.registry import Registry

    store = Registry(registry)
    version = store.resolve(model)
    history = [change.model_dump(mode="json") for change in store.history(version.name)]
    manifest = version.manifest.model_dump(mode="json")
    emit({**_facts(version), "manifest": manifest, "history": history}, as_json=as_json)


@models.command()
def promote(
    model: Reference,
    alias: Alias = "champion",
    reason: Annotated[str, typer.Option(help="Why, for the audit record.")] = "promoted by hand",
    registry: RegistryUri = "registry",
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Move an alias to a version whose stored evaluation passes the gate of its config."""
    from luthier.api import check_promotion
    from luthier.registry import Registry

    store = Registry(registry)
    version = store.resolve(model)
    figures = check_promotion(store, version.ref)
    if not dry_run:
        store.set_alias(version.name, alias, version.version, actor=getpass.getuser(), reason=reason, figures=figures)
    emit({"version": version.ref, "alias": alias}, as_json=as_json, text=f"{version.name}@{alias} is {version.ref}")


@models.command()
def rollback(
    name: Annotated[str, typer.Argument(metavar="MODEL")],
    alias: Alias = "champion",
    registry: RegistryUri = "registry",
    as_json: AsJson = False,
) -> None:
    """Move an alias back to the version that it pointed to before."""
    from luthier.registry import Registry

    version = Registry(registry).rollback(name, alias)
    emit({"version": version.ref, "alias": alias}, as_json=as_json, text=f"{name}@{alias} is {version.ref}")


def _facts(version: Any) -> dict[str, Any]:
    return {"version": version.ref, "aliases": list(version.aliases), "uri": version.uri}
