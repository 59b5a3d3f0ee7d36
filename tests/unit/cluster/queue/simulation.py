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


def ticket(number: int, bundles: Sequence[Bundle], team: str = "a", priority: int = 0, submitted_s: float = 0.0) -> Ticket:
    return Ticket(
        id=f"job-{number}",
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
    """Time goes in ticks; workers land on the emptiest node that holds them, which is not where the queue thinks."""

    nodes: list[Bundle]
    policy: Policy
    durations_s: dict[str, float]
    now_s: float = 0.0
    waiting: list[Ticket] = field(default_factory=list)
    running: dict[str, Ticket] = field(default_factory=dict)
    ended: list[Ticket] = field(default_factory=list)
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

    def tick(self) -> None:
        self.now_s += TICK_S
        for job in [one for one in self.running.values() if self.now_s - one.attempts[0].started_s >= self.durations_s[one.id]]:
            del self.running[job.id], self.places[job.id]
            self.ended.append(job.model_copy(update={"attempts": job.with_attempt(ended_s=self.now_s)}))
        cluster = Cluster(nodes=tuple(self.nodes), free=tuple(self.free()))
        known = standings(self.spans(), self.policy, self.now_s)
        decision = decide(self.waiting, [*self.running.values()], cluster, known, self.policy, self.now_s)
        self.reasons = decision.waiting
        for job_id in decision.start:
            self._start(next(one for one in self.waiting if one.id == job_id))
        self.waiting = [
            one.model_copy(update={"blocked_since_s": self.now_s})
            if one.id == decision.blocked and one.blocked_since_s is None
            else one
            for one in self.waiting
        ]

    def _start(self, job: Ticket) -> None:
        self.waiting.remove(job)
        attempt = Attempt(job_id=job.id, started_s=self.now_s)
        self.running[job.id] = job.model_copy(update={"attempts": (attempt,), "state": "running"})
        self.places[job.id] = []
        for bundle in sorted(job.gang.bundles, key=lambda one: -sum(one.values())):
            left = self.free()
            able = [index for index, node in enumerate(left) if fits(bundle, node)]
            # The queue promises that it fits; where the promise depends on the nodes chosen, any that holds it will do.
            assert able or self._fits_elsewhere(job), f"{job.id} was started without room"
            if not able:
                self.places[job.id] = self._arranged(job)
                return
            self.places[job.id].append((max(able, key=lambda index: sum(left[index].values())), bundle))

    def _fits_elsewhere(self, job: Ticket) -> bool:
        return bool(self._arranged(job))

    def _arranged(self, job: Ticket) -> list[tuple[int, Bundle]]:
        """Any arrangement of the whole gang on what the others leave, by trying all."""
        others = Simulation(self.nodes, self.policy, {}, places={k: v for k, v in self.places.items() if k != job.id})
        found = _search(list(job.gang.bundles), others.free())
        return found or []


def _search(bundles: list[Bundle], free: list[Bundle]) -> list[tuple[int, Bundle]] | None:
    if not bundles:
        return []
    first, *rest = bundles
    for index, node in enumerate(free):
        if fits(first, node):
            left = [*free[:index], {key: amount - first.get(key, 0.0) for key, amount in node.items()}, *free[index + 1 :]]
            if (found := _search(rest, left)) is not None:
                return [(index, first), *found]
    return None
