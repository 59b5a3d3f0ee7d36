"""One job of the queue, from the moment that it is taken to its end."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from luthier.cluster.queue.accounting import Span
from luthier.cluster.queue.gang import Gang

State = Literal["queued", "starting", "running", "ended", "refused"]
"""``starting``: the cluster is being told; ``refused``: it did not take the job."""

HOLDING: tuple[State, ...] = ("starting", "running")
"""States in which a job holds its gang."""

FINAL: tuple[State, ...] = ("ended", "refused")


class Attempt(BaseModel):
    """One time that the cluster was handed the job."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    job_id: str
    """Of the Ray job."""
    started_s: float
    """Unix time."""
    ended_s: float | None = None
    """Unix time; None: it has not ended."""
    status: str | None = None
    """Ray's word for its end, or LOST where the cluster came back without the job."""
    exit_code: int | None = None
    message: str = ""


class Ticket(BaseModel):
    """What a team asked for, and what became of it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    id: str
    """Also the id of the first Ray job, unless the cluster has one of that id by then."""
    base_id: str
    """Of the submission: the same run asked for twice has it twice."""
    number: int
    """Counts what this queue has taken."""
    name: str
    """Of the run."""
    verb: str
    team: str
    priority: int
    supervise: bool
    """Whether a job that died is handed to the cluster once more."""
    gang: Gang
    package_sha256: str = ""
    """Of what it runs."""
    submitted_s: float
    """Unix time."""
    state: State = "queued"
    reason: str = ""
    """Why it waits, or why it was refused."""
    blocked_since_s: float | None = None
    """Unix time from which it was the first that waited for room."""
    cancelled: bool = False
    attempts: tuple[Attempt, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether its gang is reserved."""
        return self.state in HOLDING

    @property
    def is_over(self) -> bool:
        """Whether nothing will change any more."""
        return self.state in FINAL

    @property
    def job_id(self) -> str | None:
        """Of the newest Ray job."""
        return self.attempts[-1].job_id if self.attempts else None

    @property
    def status(self) -> str:
        """Its state, or once it has ended Ray's word for how."""
        if self.state != "ended":
            return self.state
        return (self.attempts[-1].status if self.attempts else None) or "STOPPED"

    @property
    def exit_code(self) -> int | None:
        """The command's own."""
        return self.attempts[-1].exit_code if self.attempts else None

    @property
    def spans(self) -> tuple[Span, ...]:
        """What it is charged with."""
        return tuple(
            Span(
                team=self.team,
                started_s=attempt.started_s,
                ended_s=attempt.ended_s,
                accelerators=self.gang.accelerators,
                cpus=self.gang.charged_cpus,
            )
            for attempt in self.attempts
        )

    def with_attempt(self, **changes: object) -> tuple[Attempt, ...]:
        """Its attempts, the newest one changed."""
        return (*self.attempts[:-1], self.attempts[-1].model_copy(update=changes))
