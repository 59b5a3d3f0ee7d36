"""Verbs that speak to a Ray cluster's job server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from luthier.cli.options import Address, AsJson, ConfigPath, DryRun, Overrides, emit, load, show_plan
from luthier.cli.status import status
from luthier.errors import ConfigError

JobId = Annotated[str, typer.Argument(metavar="JOB")]
VERBS = ("run", "train", "tune", "evaluate")


def jobs(app: typer.Typer) -> None:
    """Add the verbs to the application."""
    app.command()(submit)
    app.command()(status)
    app.command()(logs)
    app.command()(stop)


def submit(
    config: ConfigPath,
    overrides: Overrides = None,
    address: Address = None,
    verb: Annotated[str, typer.Option(help=f"What the job does: {', '.join(VERBS)}.")] = "run",
    wait: Annotated[bool, typer.Option("--wait", help="Follow the log to the end; exit with the job's code.")] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Run a verb as a job on a Ray cluster."""
    cfg = load(config, overrides)
    if verb not in VERBS:
        raise ConfigError(f"--verb is {verb!r}; it must be one of {', '.join(VERBS)}.")
    if dry_run:
        return show_plan(cfg, as_json=as_json)
    from luthier.cluster import submit as jobs_api

    job_id = jobs_api.submit(Path(config), overrides or [], verb, address)  # type: ignore[arg-type]
    follow = f"luthier logs -f {job_id}" + (f" --address {address}" if address else "")
    emit({"job_id": job_id}, as_json=as_json, text=f"submitted {job_id}; follow it: {follow}")
    if wait:
        for part in jobs_api.logs(job_id, follow=True, address=address):
            typer.echo(part, nl=False, err=as_json)
        ended = jobs_api.wait(job_id, address=address)
        raise typer.Exit(ended.exit_code if ended.exit_code is not None else 1)


def logs(
    job: JobId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job ends.")] = False,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """What a job printed; with --json one object for each piece, as it comes."""
    from luthier.cluster import submit as jobs_api

    for part in jobs_api.logs(job, follow=follow, address=address):
        if as_json:
            emit({"job_id": job, "log": part}, as_json=True)
        else:
            typer.echo(part, nl=False)


def stop(job: JobId, address: Address = None, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """End a job."""
    from luthier.cluster import submit as jobs_api

    if dry_run:
        found = jobs_api.status(job, address)
        text = f"would stop {job}" if not found.ended else f"{job} had ended already: {found.status}"
        return emit({"job_id": job, "would_stop": not found.ended}, as_json=as_json, text=text)
    stopped = jobs_api.stop(job, address)
    emit({"job_id": job, "stopped": stopped}, as_json=as_json, text="stopped" if stopped else "had ended already")
