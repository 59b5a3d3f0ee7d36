"""What each team has used, for people to see."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from luthier.cluster.queue.accounting import used
from luthier.cluster.queue.teams import Period, Policy, Team
from luthier.cluster.queue.ticket import Ticket


class TeamUse(BaseModel):
    """One team's use and quota."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    team: str
    per: Period
    accelerator_hours: float
    """Used in the period that ends now."""
    accelerator_hours_quota: float | None
    cpu_hours: float
    """Used in the period that ends now, by jobs without accelerators."""
    cpu_hours_quota: float | None
    weight: float
    max_priority: int
    num_running: int
    num_queued: int


def team_uses(tickets: Sequence[Ticket], policy: Policy, now_s: float) -> list[TeamUse]:
    """Every team's use.

    Args:
        tickets: All that are known.
        policy: The teams.
        now_s: Unix time.
    """
    return [
        _use(name, team, [one for one in tickets if one.team == name], now_s) for name, team in policy.teams.items()
    ]


def _use(name: str, team: Team, tickets: Sequence[Ticket], now_s: float) -> TeamUse:
    hours = used([span for ticket in tickets for span in ticket.spans], name, team.period_s, now_s)
    return TeamUse(
        team=name,
        per=team.per,
        accelerator_hours=hours.accelerator_hours,
        accelerator_hours_quota=team.accelerator_hours,
        cpu_hours=hours.cpu_hours,
        cpu_hours_quota=team.cpu_hours,
        weight=team.weight,
        max_priority=team.max_priority,
        num_running=sum(ticket.holds for ticket in tickets),
        num_queued=sum(ticket.state == "queued" for ticket in tickets),
    )
