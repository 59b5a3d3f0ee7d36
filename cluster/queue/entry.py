"""Taking jobs into the queue, and what their owners may change while they wait."""

from __future__ import annotations

import time
from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict, TypeAdapter, field_validator

from luthier.cluster.queue.feasible import problems
from luthier.cluster.queue.gang import Gang
from luthier.cluster.queue.order import Cluster
from luthier.cluster.queue.store import Store
from luthier.cluster.queue.teams import Policy
from luthier.cluster.queue.ticket import Ticket
from luthier.cluster.submission import Submission
from luthier.errors import ConfigError, ResourceError
from luthier.safe_files import Sha256


class Asked(BaseModel):
    """A job that somebody wants to be queued."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    submission: Submission
    gang: Gang
    team: str | None = None
    """None: the queue's default."""
    priority: int | str | None = None
    """A name or a number; None: normal."""
    supervise: bool = False
    again: bool = False
    """A new job, even while the same one waits or runs."""

    @field_validator("submission")
    @classmethod
    def _package_has_a_digest(cls, submission: Submission) -> Submission:
        TypeAdapter(Sha256).validate_python(submission.package.sha256)  # it names a file of the queue's directory
        return submission


class Taken(BaseModel):
    """A job of the queue."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    ticket: Ticket
    joined: bool
    """Whether the same run was there already."""


def enqueue(asked: Asked, store: Store, policy: Policy, cluster: Cluster | None) -> Taken:
    """Take a job, or find the one that is the same and not over.

    Args:
        asked: What is wanted.
        store: Where it is kept.
        policy: The teams.
        cluster: What there is; None: not known now, and the job waits until it is.

    Raises:
        ConfigError: There is no such team, the priority is none that the team may use, or a job asks for nothing.
        ResourceError: The cluster can never hold the job.
    """
    team = policy.team_name(asked.team)
    priority = policy.checked_priority(team, asked.priority)
    if not asked.gang.kinds or any(amount < 0 for one in asked.gang.bundles for amount in one.values()):
        raise ConfigError("gang: the job asks for no resources, or for less than none; name what its workers reserve.")
    # A head that has just started knows of no node yet, not even its own.
    if cluster is not None and cluster.nodes and (told := problems(asked.gang, cluster.nodes)):
        raise ResourceError("\n".join(told))
    with store.lock:
        same = [one for one in store.all() if one.base_id == asked.submission.base_id and not one.is_over]
        if same and not asked.again:
            return Taken(ticket=same[-1], joined=True)
        ticket = Ticket(
            id=free_id(asked.submission.base_id, store),
            base_id=asked.submission.base_id,
            number=0,
            name=asked.submission.name,
            verb=asked.submission.verb,
            team=team,
            priority=priority,
            supervise=asked.supervise,
            gang=asked.gang,
            package_sha256=asked.submission.package.sha256,
            submitted_s=time.time(),
        )
        return Taken(ticket=store.add(ticket, asked.submission), joined=False)


def free_id(base: str, store: Store) -> str:
    """The first of base, base-2, base-3, ... that neither a ticket nor a job of one has."""
    return next(name for name in numbered(base) if name not in store.names())


def numbered(base: str) -> Iterator[str]:
    """base, base-2, base-3, and so on."""
    yield base
    number = 2
    while True:
        yield f"{base}-{number}"
        number += 1


def known(store: Store, name: str) -> Ticket:
    """The ticket of an id, or of a job's, or else the newest of a run's name.

    Raises:
        ResourceError: There is none.
    """
    found = store.get(name) or next(
        (
            one
            for one in reversed(store.all())
            if one.name == name or any(attempt.job_id == name for attempt in one.attempts)
        ),
        None,
    )
    if found is None:
        raise ResourceError(f"the queue knows no job {name!r}; see its jobs with: luthier queue list")
    return found


def cancel(ticket: Ticket, store: Store) -> Ticket:
    """End a job: at once where it waits; where it runs, the cluster is asked to stop it."""

    def cancelled(current: Ticket) -> Ticket:
        if current.is_over:
            return current
        if current.state == "queued":
            return current.model_copy(update={"cancelled": True, "state": "ended", "reason": "cancelled"})
        return current.model_copy(update={"cancelled": True})

    return store.change(ticket.id, cancelled)


def move(ticket: Ticket, asked: int | str, store: Store, policy: Policy) -> Ticket:
    """Give a waiting job another priority.

    Raises:
        ConfigError: It does not wait any more, or its team may not use that priority.
    """
    priority = policy.checked_priority(policy.team_name(ticket.team), asked)

    def moved(current: Ticket) -> Ticket:
        if current.state != "queued":
            raise ConfigError(f"job {current.id!r} is {current.status}; only a job that waits can be moved.")
        return current.model_copy(update={"priority": priority, "blocked_since_s": None})

    return store.change(ticket.id, moved)
