"""A cluster in which jobs of known length run, and whose order is the queue's."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from luthier.cluster.queue.accounting import Span
from luthier.cluster.queue.gang import Bundle, Gang
from luthier.cluster.queue.order import Cluster, decide
from luthier.cluster.queue.placement import fits
from luthier.cluster.queue.standing import standings
from luthier.cluster.queue.teams import Policy
from luthier.cluster.queue.ticket import Attempt, Ticket

TICK_S = 60.0


def ticket(
    number: int, bundles: Sequence[Bundle], team: str = "a", priority: int = 0, submitted_s: float = 0.0
) -> Ticket:
    return Ticket(
        id=f"job-{number}",
        base_id=f"job-{number}",
        number=number,
        name="job",
        verb="train",
        team=team,
        priority=priority,
        supervise=False,
        gang=Gang(bundles=tuple(bundles)),
        submitted_s=submitted_s,
    )


@dataclass
class Simulation:
    """Time goes in ticks; a started gang waits, as Ray has it, until all its workers find a node.

    They land on the emptiest nodes that hold them, which is not where the queue thinks.
    """

    nodes: list[Bundle]
    policy: Policy
    durations_s: dict[str, float]
    now_s: float = 0.0
    waiting: list[Ticket] = field(default_factory=list)
    running: dict[str, Ticket] = field(default_factory=dict)
    ended: list[Ticket] = field(default_factory=list)
    ends_s: dict[str, float] = field(default_factory=dict)
    places: dict[str, list[tuple[int, Bundle]]] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)

    def free(self) -> list[Bundle]:
        left = [dict(node) for node in self.nodes]
        for index, bundle in itertools.chain.from_iterable(self.places.values()):
            for key, amount in bundle.items():
                left[index][key] -= amount
        return left

    def spans(self) -> list[Span]:
        return [span for one in (*self.running.values(), *self.ended) for span in one.spans]

    def reserved(self) -> list[Bundle]:
        return [bundle for one in self.running.values() for bundle in one.gang.bundles]

    def tick(self) -> None:
        self.now_s += TICK_S
        for job_id in [one for one, end_s in self.ends_s.items() if end_s <= self.now_s]:
            job = self.running.pop(job_id)
            del self.places[job_id], self.ends_s[job_id]
            self.ended.append(job.model_copy(update={"attempts": job.with_attempt(ended_s=self.now_s)}))
        self._give_places()
        while self._decide():
            self._give_places()

    def _decide(self) -> bool:
        cluster = Cluster(nodes=tuple(self.nodes), free=tuple(self.free()))
        known = standings(self.spans(), self.policy, self.now_s)
        decision = decide(self.waiting, [*self.running.values()], cluster, known, self.policy, self.now_s)
        self.reasons = decision.waiting
        for job in [one for one in self.waiting if one.id in decision.start]:
            attempt = Attempt(job_id=job.id, started_s=self.now_s)
            self.running[job.id] = job.model_copy(update={"attempts": (attempt,), "state": "running"})
        self.waiting = [
            one.model_copy(update={"blocked_since_s": self.now_s})
            if one.id == decision.blocked and one.blocked_since_s is None
            else one
            for one in self.waiting
            if one.id not in decision.start
        ]
        return bool(decision.start)

    def _give_places(self) -> None:
        for job in self.running.values():
            if job.id not in self.places and (found := _search(_ordered(job.gang), self.free())) is not None:
                self.places[job.id] = found
                self.ends_s[job.id] = self.now_s + self.durations_s[job.id]


def _ordered(gang: Gang) -> list[Bundle]:
    return sorted(gang.bundles, key=lambda one: -sum(one.values()))


def _search(bundles: list[Bundle], free: list[Bundle]) -> list[tuple[int, Bundle]] | None:
    """Any arrangement, the emptiest node tried first."""
    if not bundles:
        return []
    first, *rest = bundles
    for index in sorted(range(len(free)), key=lambda one: -sum(free[one].values())):
        if fits(first, free[index]):
            node = {key: amount - first.get(key, 0.0) for key, amount in free[index].items()}
            found = _search(rest, [*free[:index], node, *free[index + 1 :]])
            if found is not None:
                return [(index, first), *found]
    return None
