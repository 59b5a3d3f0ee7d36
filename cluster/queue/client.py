"""Asking a queue from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from luthier.cluster.queue.entry import Asked, Taken
from luthier.cluster.queue.gang import Gang
from luthier.cluster.queue.report import TeamUse
from luthier.cluster.queue.ticket import Ticket
from luthier.cluster.submission import Submission
from luthier.cluster.token import ray_token
from luthier.errors import ConfigError, LuthierError, ResourceError

DEFAULT_URL = "http://127.0.0.1:8266"

_TIMEOUT = httpx.Timeout(60.0, connect=3.0)
_BLOCK_BYTES = 2**20


def enqueue(
    queue_url: str,
    submission: Submission,
    gang: Gang,
    team: str | None = None,
    priority: int | str | None = None,
    *,
    supervise: bool = False,
    again: bool = False,
    token: str | None = None,
) -> Taken:
    """Queue a run; its package is sent if the queue lacks it.

    Args:
        queue_url: ``http://HOST:8266``.
        submission: What the job is.
        gang: What it holds at once, see :func:`luthier.cluster.queue.gang.gang_of`.
        team: Whose it is; None: the queue's default.
        priority: A name or a number; None: normal.
        supervise: Whether a job that died is handed to the cluster once more.
        again: A new job, even while the same one waits or runs.
        token: The team's own; None: Ray's.

    Returns:
        The ticket, and whether the same run was there already.

    Raises:
        ConfigError: There is no such team, or it may not use the priority.
        ResourceError: The queue does not answer or take the token, or the cluster can never hold the job.
    """
    asked = Asked(submission=submission, gang=gang, team=team, priority=priority, supervise=supervise, again=again)
    with _client(queue_url, token) as client:
        package = f"/v1/packages/{submission.package.sha256}"
        if client.head(package).status_code == 404:
            _checked(client.put(package, content=_blocks(Path(submission.package.path))))
        reply = client.post(
            "/v1/tickets", content=asked.model_dump_json(), headers={"Content-Type": "application/json"}
        )
        return Taken.model_validate(_checked(reply))


def tickets(queue_url: str, *, over: bool = True, token: str | None = None) -> list[Ticket]:
    """The queue's jobs, the newest first; without ``over`` those that wait or run."""
    with _client(queue_url, token) as client:
        return [Ticket.model_validate(one) for one in _checked(client.get("/v1/tickets", params={"over": over}))]


def ticket(queue_url: str, job: str, *, token: str | None = None) -> Ticket:
    """One job, by its id, its Ray job's id, or its run's name: the newest of it."""
    with _client(queue_url, token) as client:
        return Ticket.model_validate(_checked(client.get(f"/v1/tickets/{job}")))


def cancel(queue_url: str, job: str, *, token: str | None = None) -> Ticket:
    """End a job, whether it waits or runs."""
    with _client(queue_url, token) as client:
        return Ticket.model_validate(_checked(client.delete(f"/v1/tickets/{job}")))


def move(queue_url: str, job: str, priority: int | str, *, token: str | None = None) -> Ticket:
    """Give a waiting job another priority."""
    with _client(queue_url, token) as client:
        return Ticket.model_validate(_checked(client.patch(f"/v1/tickets/{job}", json={"priority": priority})))


def teams(queue_url: str, *, token: str | None = None) -> list[TeamUse]:
    """Each team's use and quota."""
    with _client(queue_url, token) as client:
        return [TeamUse.model_validate(one) for one in _checked(client.get("/v1/teams"))]


@contextmanager
def _client(queue_url: str, token: str | None) -> Iterator[httpx.Client]:
    if "://" not in queue_url:
        raise ConfigError(f"--queue is {queue_url!r}; give the queue as http://HOST:8266.")
    given = token or ray_token()
    headers = {"Authorization": f"Bearer {given}"} if given else {}
    secure = queue_url.startswith("https:")  # only then are the authorities worth the time that reading them takes
    try:
        with httpx.Client(base_url=queue_url, headers=headers, timeout=_TIMEOUT, verify=secure) as client:
            yield client
    except httpx.HTTPError as error:
        raise ResourceError(
            f"no queue answers at {queue_url} ({error}); start one with: luthier queue serve"
        ) from error


def _checked(reply: httpx.Response) -> Any:
    """The answer, or what the queue says against it as an error of ours."""
    if reply.is_success:
        return reply.json()
    try:
        told = reply.json()["detail"]
    except (ValueError, KeyError, TypeError):
        told = reply.text
    if reply.status_code in (401, 403):
        raise ResourceError(f"the queue does not take the token: {told}. Set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH.")
    kinds: dict[int, type[LuthierError]] = {400: ConfigError}
    raise kinds.get(reply.status_code, ResourceError)(told if isinstance(told, str) else f"the queue refuses: {told}")


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as source:
        while block := source.read(_BLOCK_BYTES):
            yield block
