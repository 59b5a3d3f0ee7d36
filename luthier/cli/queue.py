"""``luthier queue``: a team's jobs, in turn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from luthier.cli.options import AsJson, DryRun, emit

if TYPE_CHECKING:
    from luthier.cluster.queue.ticket import Ticket

queue = typer.Typer(help="Queue jobs of several teams for one cluster.", no_args_is_help=True, rich_markup_mode=None)

JobRef = Annotated[str, typer.Argument(metavar="JOB", help="A job's id, or the name of its run: the newest of it.")]
Queue = Annotated[str, typer.Option("--queue", envvar="LUTHIER_QUEUE", help="URL of the queue.")]
LOCAL = "http://127.0.0.1:8266"


@queue.command()
def serve(
    directory: Annotated[Path, typer.Option("--directory", help="Where the queue remembers its jobs.")],
    address: Annotated[str, typer.Option(help="Dashboard address of the head.")] = "http://127.0.0.1:8265",
    teams: Annotated[
        Path | None, typer.Option("--teams", help="YAML file of the teams; without, there is one.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8266,
    allow_unauthenticated: Annotated[
        bool, typer.Option("--allow-unauthenticated", help="Let in whoever reaches the port.")
    ] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Keep the queue of a cluster, until Ctrl-C; jobs that run go on."""
    from luthier.cluster.queue.teams import load_policy

    policy = load_policy(teams)
    if dry_run:
        facts = policy.model_dump(mode="json")
        return emit(facts, as_json=as_json, text=f"would serve teams {', '.join(policy.teams)} on {host}:{port}")
    from luthier.cluster.queue.service import serve as serve_queue

    emit({"url": f"http://{host}:{port}"}, as_json=as_json, text=f"queue of {address}: http://{host}:{port}")
    serve_queue(address, teams, directory, host=host, port=port, allow_unauthenticated=allow_unauthenticated)


@queue.command("list")
def list_tickets(
    url: Queue = LOCAL,
    everything: Annotated[bool, typer.Option("--all", help="Those that are over too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Jobs that run or wait, and why they wait."""
    from luthier.cli.queue_view import tickets_view
    from luthier.cluster.queue import client

    found = client.tickets(url, over=everything)
    emit([_facts(one) for one in found], as_json=as_json, text=tickets_view(found) if found else "no jobs")


@queue.command()
def show(job: JobRef, url: Queue = LOCAL, as_json: AsJson = False) -> None:
    """One job and its attempts."""
    from luthier.cli.queue_view import ticket_view
    from luthier.cluster.queue import client

    found = client.ticket(url, job)
    emit(_facts(found), as_json=as_json, text=ticket_view(found))


@queue.command()
def cancel(job: JobRef, url: Queue = LOCAL, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """End a job, whether it waits or runs."""
    from luthier.cluster.queue import client

    found = client.ticket(url, job)
    if dry_run:
        text = f"would cancel {found.id}, which is {found.status}"
        return emit({**_facts(found), "would_cancel": not found.is_over}, as_json=as_json, text=text)
    was_over = found.is_over
    found = client.cancel(url, found.id)
    text = f"{found.id} had ended already: {found.status}" if was_over else f"cancelled {found.id}"
    emit(_facts(found), as_json=as_json, text=text)


@queue.command()
def move(
    job: JobRef,
    priority: Annotated[str, typer.Option(help="low, normal, high, urgent, or a number from -100 to 100.")],
    url: Queue = LOCAL,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Give a waiting job another priority."""
    from luthier.cluster.queue import client

    if dry_run:
        found = client.ticket(url, job)
        text = f"would move {found.id} from priority {found.priority} to {priority}"
        return emit({**_facts(found), "would_be": priority}, as_json=as_json, text=text)
    found = client.move(url, job, priority)
    emit(_facts(found), as_json=as_json, text=f"{found.id} has priority {found.priority} now")


@queue.command("teams")
def show_teams(url: Queue = LOCAL, as_json: AsJson = False) -> None:
    """What each team has used of its quota."""
    from luthier.cli.queue_view import teams_view
    from luthier.cluster.queue import client

    found = client.teams(url)
    emit([one.model_dump(mode="json") for one in found], as_json=as_json, text=teams_view(found))


def _facts(ticket: Ticket) -> dict[str, object]:
    return {
        **ticket.model_dump(mode="json"),
        "status": ticket.status,
        "job_id": ticket.job_id,
        "exit_code": ticket.exit_code,
    }
