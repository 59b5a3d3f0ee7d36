"""The queue's loop: it sees how its jobs fare, and starts those whose turn it is.

What is about to be told to the cluster is written down first, with the id that the job will have. Where this process
dies between the two, the next one finds the job under that id, or none, and never starts it twice.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

from luthier.cluster.jobs import Job, connect, find
from luthier.cluster.queue.entry import numbered
from luthier.cluster.queue.order import Cluster, decide
from luthier.cluster.queue.packages import Packages
from luthier.cluster.queue.standing import counts_for_s, standings
from luthier.cluster.queue.store import Store
from luthier.cluster.queue.teams import Policy
from luthier.cluster.queue.ticket import Attempt, Ticket
from luthier.cluster.queue.watch import look
from luthier.cluster.submission import launch
from luthier.cluster.supervise import is_death
from luthier.errors import ResourceError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

logger = logging.getLogger(__name__)

LOST_S = 15.0
"""How long a head must be without a job that it was handed before the job counts as lost: it may be coming up."""

NUM_TRIES = 3
"""How often a head that answers is handed a job that it does not take."""

KEPT_S = 90 * 86400.0
"""How long the queue remembers jobs that are over."""

_REST_S = 0.2
"""Least time between two looks."""

_TIDY_S = 600.0


class Dispatcher:
    """Looks after the queue's jobs, once every interval, in a thread of its own.

    Args:
        store: The tickets.
        packages: What they run.
        policy: The teams.
        address: Of the head, ``http://HEAD:8265``.
        interval_s: From one look to the next.
    """

    def __init__(self, store: Store, packages: Packages, policy: Policy, address: str, interval_s: float = 1.0) -> None:
        self._store, self._packages, self._policy = store, packages, policy
        self._address, self._interval_s = address, interval_s
        self._client: JobSubmissionClient | None = None
        self._missing_since_s: dict[str, float] = {}
        self._num_refused: dict[str, int] = {}
        self._tidied_s = 0.0
        self._wake, self._ending = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="dispatcher", daemon=True)
        self.cluster: Cluster | None = None
        self.trouble: str | None = "the head has not been asked yet"

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after the look under way; jobs on the cluster go on."""
        self._ending.set()
        self._wake.set()
        self._thread.join(timeout=30.0)

    def poke(self) -> None:
        """Look now: something has changed."""
        self._wake.set()

    def _run(self) -> None:
        while not self._ending.is_set():
            self._wake.clear()
            self.tick()
            self._ending.wait(min(_REST_S, self._interval_s))  # a burst of submissions is looked at together
            self._wake.wait(self._interval_s)

    def tick(self) -> None:
        """One look. Where the head is away the jobs wait, and what became of those that ran is seen when it is back."""
        try:
            self._client = self._client or connect(self._address)
            self.cluster = look(self._client, self._policy)
            for ticket in self._store.all():
                if ticket.holds:
                    self._settle(self._client, ticket)
            self._start_those_whose_turn_it_is(self._client, self.cluster)
            self.trouble = None
            self._tidy()
        except Exception as error:  # whatever it was, the next look may succeed, and the jobs must not be forgotten
            if self.trouble != str(error):
                logger.warning("the queue waits: %s", error)
            self.trouble = str(error)
            self._client = None

    def _settle(self, client: JobSubmissionClient, ticket: Ticket) -> None:
        """Bring a ticket to where its job stands."""
        job = find(client, ticket.attempts[-1].job_id)
        if job is not None:
            self._missing_since_s.pop(ticket.id, None)
        if job is None and ticket.state == "starting":
            self._launch(client, ticket)
        elif job is None:
            since_s = self._missing_since_s.setdefault(ticket.id, time.monotonic())
            if time.monotonic() - since_s > LOST_S:
                self._end(ticket, None)
        elif job.ended:
            self._end(ticket, job)
        else:
            started_s = ticket.attempts[-1].started_s if job.started_s is None else job.started_s
            self._change(ticket, state="running", reason="", attempts=ticket.with_attempt(started_s=started_s))
            if (self._store.get(ticket.id) or ticket).cancelled:
                client.stop_job(job.job_id)

    def _launch(self, client: JobSubmissionClient, ticket: Ticket) -> None:
        """Hand a job to the cluster under the id that was written down."""
        if ticket.cancelled:
            self._change(ticket, state="ended", reason="cancelled", attempts=ticket.attempts[:-1])
            return
        submission = self._store.submission(ticket.id)
        path = self._packages.path(submission.package.sha256)
        package = submission.package.model_copy(update={"path": str(path)})
        changes = {"base_id": ticket.attempts[-1].job_id, "package": package}
        try:
            launch(client, submission.model_copy(update=changes))
        except (ResourceError, ValueError) as error:
            self._not_taken(client, ticket, error)
        else:
            self._num_refused.pop(ticket.id, None)
            self._change(ticket, state="running", reason="")

    def _not_taken(self, client: JobSubmissionClient, ticket: Ticket, error: Exception) -> None:
        """A job that a head which answers does not take is given up after a few tries."""
        client.get_version()  # where the head is away, this fails too, and the job is kept for when it is back
        number = self._num_refused[ticket.id] = self._num_refused.get(ticket.id, 0) + 1
        if number >= NUM_TRIES:
            self._change(ticket, state="refused", reason=str(error), attempts=ticket.attempts[:-1])

    def _end(self, ticket: Ticket, job: Job | None) -> None:
        """Write down how a job ended; one that died is queued once more where that was asked for."""
        self._missing_since_s.pop(ticket.id, None)
        last = ticket.attempts[-1]
        ended: dict[str, Any] = {"ended_s": time.time(), "status": "LOST", "message": "the head came back without it"}
        if job is not None:
            started_s = last.started_s if job.started_s is None else job.started_s
            ended_s = max(started_s, time.time() if job.ended_s is None else job.ended_s)
            ended = {"started_s": started_s, "ended_s": ended_s, "status": job.status, "exit_code": job.exit_code}
            ended["message"] = job.message
        attempts = ticket.with_attempt(**ended)
        again = ticket.supervise and len(attempts) == 1 and is_death(job)

        def over(current: Ticket) -> Ticket:
            state = "queued" if again and not current.cancelled else "ended"
            reason = "its job died; it goes on from the last complete checkpoint" if state == "queued" else ""
            return current.model_copy(update={"state": state, "reason": reason, "attempts": attempts})

        self._store.change(ticket.id, over)

    def _start_those_whose_turn_it_is(self, client: JobSubmissionClient, cluster: Cluster) -> None:
        now_s = time.time()
        with self._store.lock:
            tickets = self._store.all()
            waiting = [ticket for ticket in tickets if ticket.state == "queued"]
            spans = [span for ticket in tickets for span in ticket.spans if self._counts(span.ended_s, now_s)]
            running = [ticket for ticket in tickets if ticket.holds]
            decision = decide(waiting, running, cluster, standings(spans, self._policy, now_s), self._policy, now_s)
            self._store.explain(decision.waiting)
            if decision.blocked:
                self._store.change(decision.blocked, lambda one: _blocked(one, now_s))
        for ticket_id in decision.start:
            self._begin(client, ticket_id)

    def _counts(self, ended_s: float | None, now_s: float) -> bool:
        return ended_s is None or now_s - ended_s < counts_for_s(self._policy)

    def _begin(self, client: JobSubmissionClient, ticket_id: str) -> None:
        """Write down that a job starts and under which id, then tell the cluster."""
        ticket = self._store.get(ticket_id)
        if ticket is None or ticket.state != "queued":  # cancelled meanwhile
            return
        attempt = Attempt(job_id=self._free_job_id(client, ticket), started_s=time.time())

        def starting(current: Ticket) -> Ticket:
            if current.state != "queued":
                return current
            changes = {"state": "starting", "reason": "", "blocked_since_s": None}
            return current.model_copy(update={**changes, "attempts": (*current.attempts, attempt)})

        ticket = self._store.change(ticket_id, starting)
        if ticket.state == "starting":
            self._launch(client, ticket)

    def _free_job_id(self, client: JobSubmissionClient, ticket: Ticket) -> str:
        """The ticket's own, or the first number of it that neither the queue nor the cluster has a job of."""
        taken = self._store.names() - (set() if ticket.attempts else {ticket.id})
        return next(name for name in numbered(ticket.id) if name not in taken and find(client, name) is None)

    def _change(self, ticket: Ticket, **changes: object) -> None:
        self._store.change(ticket.id, lambda current: current.model_copy(update=changes))

    def _tidy(self) -> None:
        """Forget what is old, and archives that no ticket needs any more."""
        if time.monotonic() - self._tidied_s < _TIDY_S and self._tidied_s:
            return
        self._tidied_s = time.monotonic()
        horizon_s = time.time() - max(KEPT_S, counts_for_s(self._policy))
        self._store.forget(lambda ticket: _last_seen_s(ticket) < horizon_s)
        needed = {one.package_sha256 for one in self._store.all() if not one.is_over}
        self._packages.drop_unused(needed)


def _blocked(ticket: Ticket, now_s: float) -> Ticket:
    return ticket if ticket.blocked_since_s is not None else ticket.model_copy(update={"blocked_since_s": now_s})


def _last_seen_s(ticket: Ticket) -> float:
    ended_s = ticket.attempts[-1].ended_s if ticket.attempts else None
    return ticket.submitted_s if ended_s is None else ended_s
