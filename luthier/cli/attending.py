"""Following a job to its end on this terminal, and exiting with its code."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from luthier.cli.options import emit

if TYPE_CHECKING:
    from luthier.cluster.jobs import Job
    from luthier.cluster.queue.ticket import Ticket
    from luthier.cluster.submission import Submission

INTERRUPTED = 130
"""Exit code of a command that Ctrl-C ended, as in a shell."""

_POLL_S = 1.0


def attend_job(job_id: str, address: str | None, submission: Submission | None, *, as_json: bool) -> NoReturn:
    """Show a job to its end, and exit with its code.

    Args:
        job_id: The job.
        address: Of the job server.
        submission: Is submitted once more if the job dies; None: nothing is.
        as_json: Keep stdout for one JSON object.
    """
    from rich.console import Console

    from luthier.cli.log_screen import LogScreen
    from luthier.cluster.supervise import attend

    screen = LogScreen(Console(stderr=as_json), bars=True)
    with _left_alone(f"{job_id} goes on; stop it with: luthier stop {job_id}"):
        job = attend(
            job_id, screen.show, lambda text: typer.echo(text, err=as_json), submission=submission, address=address
        )
    exit_like(job, result=screen.result, as_json=as_json)


def attend_ticket(ticket: Ticket, queue_url: str, address: str | None, token: str | None, *, as_json: bool) -> NoReturn:
    """Show why a queued job waits, then its log, and exit with its code.

    Args:
        ticket: The queue's job.
        queue_url: The queue.
        address: Of the job server.
        token: The team's own.
        as_json: Keep stdout for one JSON object.
    """
    from rich.console import Console

    from luthier.cli.log_screen import LogScreen
    from luthier.cluster.following import follow
    from luthier.cluster.jobs import shell_exit_code
    from luthier.cluster.queue import client

    screen, shown, told = LogScreen(Console(stderr=as_json), bars=True), None, ""
    with _left_alone(f"{ticket.id} stays; take it back with: luthier queue cancel {ticket.id}"):
        while True:
            if ticket.job_id not in (None, shown) and ticket.state in ("running", "ended"):
                shown = ticket.job_id
                screen.show(follow(str(shown), address))
            elif ticket.is_over:
                break
            elif ticket.reason not in ("", told):
                told = ticket.reason
                typer.echo(f"{ticket.id} waits: {told}", err=as_json)
            time.sleep(_POLL_S)
            ticket = client.ticket(queue_url, ticket.id, token=token)
    facts = {
        **ticket.model_dump(mode="json"),
        "job_id": ticket.job_id,
        "status": ticket.status,
        "exit_code": ticket.exit_code,
    }
    reason = f": {ticket.reason}" if ticket.reason else ""
    emit({**facts, "result": screen.result}, as_json=as_json, text=f"{ticket.id}: {ticket.status}{reason}")
    raise typer.Exit(shell_exit_code(ticket.status, ticket.exit_code))


def exit_like(job: Job, *, as_json: bool, **facts: Any) -> NoReturn:
    """Say how a job ended, and exit with its code."""
    from luthier.cluster.jobs import shell_exit_code

    code = "" if job.exit_code is None else f", exit code {job.exit_code}"
    emit({**job.model_dump(), **facts}, as_json=as_json, text=f"{job.job_id}: {job.status}{code}")
    raise typer.Exit(shell_exit_code(job.status, job.exit_code))


@contextmanager
def _left_alone(text: str) -> Iterator[None]:
    """A block that Ctrl-C ends without ending the job."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(text, err=True)
        raise typer.Exit(INTERRUPTED) from None
