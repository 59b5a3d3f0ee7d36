"""Verbs that speak to a Ray cluster's job server."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from luthier.cli.options import Address, AsJson, ConfigPath, DryRun, Overrides, emit, load, show_plan
from luthier.cli.status import status
from luthier.errors import ConfigError

if TYPE_CHECKING:
    from luthier.cluster.jobs import Job
    from luthier.cluster.submission import Submission

JobRef = Annotated[str, typer.Argument(metavar="JOB", help="A job's id, or the name of its run: the newest of it.")]
VERBS = ("run", "train", "tune", "evaluate")
INTERRUPTED = 130
"""Exit code of a command that Ctrl-C ended, as in a shell."""


def jobs(app: typer.Typer) -> None:
    """Add the verbs to the application."""
    app.command()(submit)
    app.command()(status)
    app.command("list")(list_jobs)
    app.command()(logs)
    app.command()(wait)
    app.command()(stop)


def submit(
    config: ConfigPath,
    overrides: Overrides = None,
    address: Address = None,
    verb: Annotated[str, typer.Option(help=f"What the job does: {', '.join(VERBS)}.")] = "run",
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Follow the job to its end and exit with its code.")
    ] = True,
    again: Annotated[bool, typer.Option("--again", help="A new job, even while the same one runs.")] = False,
    supervise: Annotated[
        bool, typer.Option("--supervise", help="Submit once more where the job or its head dies; the run resumes.")
    ] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Run a verb as a job on a Ray cluster, and follow it as if it ran here; Ctrl-C leaves it running."""
    cfg = load(config, overrides)
    if verb not in VERBS:
        raise ConfigError(f"--verb is {verb!r}; it must be one of {', '.join(VERBS)}.")
    if supervise and not wait:
        raise ConfigError("--supervise needs somebody who watches the job; leave --no-wait out.")
    if dry_run:
        return show_plan(cfg, as_json=as_json)
    from luthier.cluster.jobs import url_of
    from luthier.cluster.submission import prepare

    with tempfile.TemporaryDirectory(prefix="luthier-package-") as scratch:
        submission = prepare(Path(config), overrides or [], verb, url_of(address), Path(scratch))  # type: ignore[arg-type]
        job_id = _start_or_join(submission, address, again=again, as_json=as_json)
        if wait:
            _attend(job_id, address, submission if supervise else None, as_json=as_json)
    follow_it = f"luthier logs -f {job_id}" + (f" --address {address}" if address else "")
    emit({"job_id": job_id}, as_json=as_json, text=f"follow it: {follow_it}")


def _start_or_join(submission: Submission, address: str | None, *, again: bool, as_json: bool) -> str:
    from luthier.cluster.jobs import connect
    from luthier.cluster.submission import launch, running

    client = connect(address)
    joined = None if again else running(client, submission.base_id)
    if joined is not None:
        job_id = joined.job_id
        typer.echo(f"joining {job_id}, which is the same and {joined.status}; --again makes a new job", err=as_json)
        return job_id
    typer.echo(f"sending {submission.package}", err=as_json)
    job_id = launch(client, submission)
    typer.echo(f"submitted {job_id}", err=as_json)
    return job_id


def _attend(job_id: str, address: str | None, submission: Submission | None, *, as_json: bool) -> NoReturn:
    """Show a job to its end, and exit with its code."""
    from rich.console import Console

    from luthier.cli.log_screen import LogScreen
    from luthier.cluster.supervise import attend

    screen = LogScreen(Console(stderr=as_json), bars=True)
    try:
        job = attend(
            job_id, screen.show, lambda text: typer.echo(text, err=as_json), submission=submission, address=address
        )
    except KeyboardInterrupt:
        typer.echo(f"{job_id} goes on; stop it with: luthier stop {job_id}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    _exit_like(job, result=screen.result, as_json=as_json)


def _exit_like(job: Job, *, as_json: bool, **facts: Any) -> NoReturn:
    """Say how a job ended, and exit with its code."""
    code = "" if job.exit_code is None else f", exit code {job.exit_code}"
    emit({**job.model_dump(), **facts}, as_json=as_json, text=f"{job.job_id}: {job.status}{code}")
    raise typer.Exit(job.shell_exit_code)


def list_jobs(address: Address = None, as_json: AsJson = False) -> None:
    """The jobs of a cluster, the newest first."""
    from luthier.cli.status_view import jobs_view
    from luthier.cluster import jobs as jobs_api

    found = [job.model_dump(mode="json") for job in jobs_api.list_jobs(address)]
    emit(found, as_json=as_json, text=jobs_view(found) if found else "no jobs")


def logs(
    job: JobRef,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job ends.")] = False,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """What a job printed; with --json one object for each line, as it comes."""
    from rich.console import Console

    from luthier import events
    from luthier.cli.log_screen import LogScreen, whole_lines
    from luthier.cluster import jobs as jobs_api
    from luthier.cluster.following import follow as follow_log

    pieces = follow_log(job, address) if follow else [jobs_api.logs(job, address)]
    if not as_json:
        return LogScreen(Console(), bars=follow).show(pieces)
    for line in whole_lines(pieces):
        event = events.parse(line)
        emit({"job": job, **({"log": line} if event is None else {"event": dict([event])})}, as_json=True)


def wait(
    job: JobRef,
    timeout: Annotated[float | None, typer.Option(help="Seconds; without, as long as it takes.")] = None,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Wait until a job has ended, and exit with its code."""
    from luthier.cluster import jobs as jobs_api

    _exit_like(jobs_api.wait(job, address=address, timeout_s=timeout), as_json=as_json)


def stop(job: JobRef, address: Address = None, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """End a job."""
    from luthier.cluster import jobs as jobs_api

    found = jobs_api.status(job, address)
    job_id = found.job_id
    if dry_run:
        text = f"would stop {job_id}" if not found.ended else f"{job_id} had ended already: {found.status}"
        return emit({"job_id": job_id, "would_stop": not found.ended}, as_json=as_json, text=text)
    stopped = jobs_api.stop(job_id, address)
    text = f"stopped {job_id}" if stopped else f"{job_id} had ended already"
    emit({"job_id": job_id, "stopped": stopped}, as_json=as_json, text=text)
