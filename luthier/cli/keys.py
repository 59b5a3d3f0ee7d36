"""``luthier keys``: who may ask an endpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from luthier.cli.options import AsJson, DryRun, emit

keys = typer.Typer(help="API keys of endpoints: a file of digests.", no_args_is_help=True, rich_markup_mode=None)

KeyName = Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is: a-z, 0-9 and '-'.")]
KeysFile = Annotated[Path, typer.Option("--file", help="The file, as serve.keys_file names it.")]


@keys.command()
def add(
    name: KeyName,
    file: KeysFile = Path("keys.json"),
    model: Annotated[
        list[str] | None, typer.Option("--model", help="Model that it opens, NAME or NAME@VERSION; several: again.")
    ] = None,
    rate: Annotated[int | None, typer.Option("--rate", help="Most requests a minute.")] = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it, once: only its digest is kept."""
    from luthier.serving.keys import add_key

    made = add_key(file, name, model or [], rate, write=not dry_run)
    facts = {"name": name, "key": None if dry_run else made, "file": str(file), "dry_run": dry_run}
    emit(facts, as_json=as_json, text=f"would add {name} to {file}" if dry_run else made)


@keys.command("list")
def list_keys(file: KeysFile = Path("keys.json"), as_json: AsJson = False) -> None:
    """Every key's name, models and rate."""
    from rich.table import Table

    from luthier.serving.keys import read_keys

    found = read_keys(file)
    table = Table("name", "models", "requests a minute", "made")
    for key in found:
        table.add_row(key.name, ", ".join(key.models), str(key.requests_per_minute or "any"), key.created_at)
    emit([key.model_dump(mode="json", exclude={"sha256"}) for key in found], as_json=as_json, text=table)


@keys.command()
def revoke(name: KeyName, file: KeysFile = Path("keys.json"), dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Take a key out; endpoints that read the file refuse it from their next look on (serve.refresh_s)."""
    from luthier.serving.keys import revoke_key

    revoke_key(file, name, write=not dry_run)
    facts = {"name": name, "file": str(file), "dry_run": dry_run}
    emit(facts, as_json=as_json, text=f"{name} {'would be' if dry_run else 'is'} revoked")
