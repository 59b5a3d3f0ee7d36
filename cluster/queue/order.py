"""Which waiting jobs start now, and why the others wait. Pure: the same facts give the same answer.

Priority comes first, then the team that has used least for its weight, then who came first. A job starts only when
its whole gang fits beside those of the jobs that run, so two jobs can't each hold half of what they need and wait for
the other half. The rest is backfilling with a bound: smaller jobs may overtake the first one that waits for room until
that one has waited too long; from then on nothing that needs the same kinds of resources starts before it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence

from pydantic import BaseModel, ConfigDict

from luthier.cluster.queue.accounting import Used
from luthier.cluster.queue.gang import ACCELERATOR, CPU, Bundle, Gang, added
from luthier.cluster.queue.placement import Nodes, place, place_most, set_aside
from luthier.cluster.queue.teams import Policy
from luthier.cluster.queue.ticket import Ticket

AHEAD_HOURS = 1.0
"""A running job counts as if it went on for so long; else a team whose jobs start together would have used nothing."""


class Cluster(BaseModel):
    """Where jobs may run."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    nodes: tuple[Bundle, ...]
    """What each node has in all, those included that the autoscaler may add."""

    free: tuple[Bundle, ...] | None = None
    """What nobody, of this queue or not, has taken on them now; None: not known."""


class Standing(BaseModel):
    """One team's use."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    fair: Used = Used()
    """Of the days that count for the fair order."""

    over_accelerator_hours: str = ""
    """Why none of its jobs with accelerators may start now; empty: they may."""

    over_cpu_hours: str = ""
    """The same of jobs without accelerators."""

    def over_quota(self, gang: Gang) -> str:
        """Why a job may not start for its team's quota."""
        return self.over_accelerator_hours if gang.accelerators else self.over_cpu_hours


class Decision(BaseModel):
    """What to do."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    start: tuple[str, ...] = ()
    """Tickets to start, in this order."""

    waiting: dict[str, str] = {}
    """Why each other one waits."""

    blocked: str | None = None
    """The first one that waits for room."""


def decide(
    waiting: Sequence[Ticket],
    running: Sequence[Ticket],
    cluster: Cluster,
    standings: Mapping[str, Standing],
    policy: Policy,
    now_s: float,
) -> Decision:
    """Choose the jobs that start.

    Args:
        waiting: Those that may.
        running: Those that hold their gang.
        cluster: What there is.
        standings: Each team's use; a team without one has used nothing.
        policy: The teams' weights, and how long a job may be overtaken.
        now_s: Unix time.
    """
    room = _Room(cluster, [ticket.gang for ticket in running], policy)
    shares = _Shares(added(cluster.nodes), standings, policy, running)
    start: list[str] = []
    reasons: dict[str, str] = {}
    blocked: str | None = None
    kept: dict[str, Ticket] = {}  # of each kind of resources the starving job that others are kept from it for
    for ticket in _in_order(waiting, shares, policy, now_s):
        holder = next((kept[kind] for kind in sorted(ticket.gang.kinds) if kind in kept), None)
        if reason := standings.get(ticket.team, Standing()).over_quota(ticket.gang):
            reasons[ticket.id] = reason
        elif holder is not None:
            reasons[ticket.id] = f"held back for {holder.id}, which has waited {_hours(now_s, holder)} for room"
        elif room.take(ticket.gang):
            start.append(ticket.id)
            shares.add(ticket)
        else:
            reasons[ticket.id] = room.why_not(ticket.gang)
            if room.is_too_small_for(ticket.gang):
                continue  # until nodes come back, nothing is gained by keeping others waiting
            blocked = blocked or ticket.id
            # Where nothing of this queue runs, others hold what it waits for, and keeping it free frees nothing.
            if (running or start) and is_starving(ticket, policy, now_s):
                kept |= dict.fromkeys(ticket.gang.kinds - kept.keys(), ticket)
    return Decision(start=tuple(start), waiting=reasons, blocked=blocked)


def is_starving(ticket: Ticket, policy: Policy, now_s: float) -> bool:
    """Whether it has been overtaken long enough."""
    return ticket.blocked_since_s is not None and now_s - ticket.blocked_since_s >= policy.starvation_s


class _Room:
    """What is left, with every gang that runs or was chosen reserved whole to its end."""

    def __init__(self, cluster: Cluster, holding: Sequence[Gang], policy: Policy) -> None:
        self._all = set_aside(policy.keep_free, cluster.nodes)
        self._holding = [bundle for gang in holding for bundle in gang.bundles]
        self._unreserved: Nodes = place_most(self._holding, self._all)
        self._untaken: Nodes | None = None if cluster.free is None else [dict(node) for node in cluster.free]

    def take(self, gang: Gang) -> bool:
        """Reserve a gang, if there is room.

        There must be room beside what is reserved, used or not yet, and on the nodes as they are: others may have
        taken some, and Ray may have put workers elsewhere than here.
        """
        unreserved = place(gang.bundles, self._unreserved)
        if unreserved is None:  # perhaps only because of where the others were put
            unreserved = place([*self._holding, *gang.bundles], self._all)
        untaken = None if self._untaken is None else place(gang.bundles, self._untaken)
        if unreserved is None or (self._untaken is not None and untaken is None):
            return False
        self._holding.extend(gang.bundles)
        self._unreserved, self._untaken = unreserved, untaken
        return True

    def is_too_small_for(self, gang: Gang) -> bool:
        """Whether there would be no room if nothing ran."""
        return place(gang.bundles, self._all) is None

    def why_not(self, gang: Gang) -> str:
        """In words."""
        kinds = gang.kinds
        if self.is_too_small_for(gang):
            return f"asks for {gang}; the cluster has {self._told(self._all, kinds)} now, which can't hold it"
        left = self._told(self._unreserved, kinds)
        if place(gang.bundles, self._unreserved) is None:
            return f"asks for {gang}; not reserved: {left} of {self._told(self._all, kinds)}"
        untaken = self._told(self._untaken or [], kinds)
        return f"asks for {gang}; others than this queue, or jobs that end, still hold some: {untaken} are free"

    @staticmethod
    def _told(nodes: Sequence[Mapping[str, float]], kinds: frozenset[str]) -> str:
        total = added(nodes)
        return ", ".join(f"{total.get(key, 0.0):g} {key}" for key in sorted(kinds))


class _Shares:
    """How much of the cluster each team has had, for its weight."""

    def __init__(
        self, total: Mapping[str, float], standings: Mapping[str, Standing], policy: Policy, running: Sequence[Ticket]
    ) -> None:
        self._total = total
        self._policy = policy
        self._used = {
            team: self._part(one.fair.accelerator_hours, one.fair.cpu_hours) for team, one in standings.items()
        }
        for ticket in running:
            self.add(ticket)

    def of(self, team: str) -> float:
        """Hours of the whole cluster, over the weight."""
        weight = self._policy.teams[team].weight if team in self._policy.teams else 1.0
        return self._used.get(team, 0.0) / weight

    def add(self, ticket: Ticket) -> None:
        """Count a job that runs."""
        ahead = self._part(ticket.gang.accelerators * AHEAD_HOURS, ticket.gang.charged_cpus * AHEAD_HOURS)
        self._used[ticket.team] = self._used.get(ticket.team, 0.0) + ahead

    def _part(self, accelerator_hours: float, cpu_hours: float) -> float:
        accelerators, cpus = self._total.get(ACCELERATOR, 0.0), self._total.get(CPU, 0.0)
        return accelerator_hours / max(accelerators, 1.0) + cpu_hours / max(cpus, 1.0)


def _in_order(waiting: Sequence[Ticket], shares: _Shares, policy: Policy, now_s: float) -> Iterator[Ticket]:
    """All of them, each the first of those that are left; a team's share grows with what is started meanwhile."""
    lines = _lines(waiting, policy, now_s)

    def rank(team: str) -> tuple[int, bool, float, float, int]:
        ticket = lines[team][0]
        return (*_first(ticket, policy, now_s), shares.of(team), *_came(ticket))

    while lines:
        team = min(lines, key=rank)
        yield lines[team].popleft()
        if not lines[team]:
            del lines[team]


def _lines(waiting: Sequence[Ticket], policy: Policy, now_s: float) -> dict[str, deque[Ticket]]:
    """Each team's jobs, the next one first."""
    lines: dict[str, deque[Ticket]] = {}
    for ticket in sorted(waiting, key=lambda one: (*_first(one, policy, now_s), *_came(one))):
        lines.setdefault(ticket.team, deque()).append(ticket)
    return lines


def _first(ticket: Ticket, policy: Policy, now_s: float) -> tuple[int, bool]:
    """What comes before a team's share: the priority, and that it has been overtaken long enough."""
    return (-ticket.priority, not is_starving(ticket, policy, now_s))


def _came(ticket: Ticket) -> tuple[float, int]:
    return (ticket.submitted_s, ticket.number)


def _hours(now_s: float, ticket: Ticket) -> str:
    return f"{(now_s - (ticket.blocked_since_s or now_s)) / 3600:.1f} h"
