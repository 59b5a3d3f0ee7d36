"""Each team's use, from the jobs that it had."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from luthier.cluster.queue.accounting import HOUR_S, Kind, Span, below_limit_at, used
from luthier.cluster.queue.order import Standing
from luthier.cluster.queue.teams import Policy, Team

DAY_S = 24 * HOUR_S

_IN_WORDS: dict[Kind, str] = {"accelerator_hours": "accelerator-hours", "cpu_hours": "CPU-hours"}


def standings(spans: Sequence[Span], policy: Policy, now_s: float) -> dict[str, Standing]:
    """The standing of every team.

    Args:
        spans: All attempts that still count.
        policy: The teams' quotas.
        now_s: Unix time.
    """
    return {
        name: Standing(
            fair=used(spans, name, policy.fair_days * DAY_S, now_s),
            over_accelerator_hours=_over(name, team, spans, now_s, "accelerator_hours"),
            over_cpu_hours=_over(name, team, spans, now_s, "cpu_hours"),
        )
        for name, team in policy.teams.items()
    }


def counts_for_s(policy: Policy) -> float:
    """How long an attempt counts after its end."""
    return max(policy.fair_days * DAY_S, *(team.period_s for team in policy.teams.values()))


def _over(name: str, team: Team, spans: Sequence[Span], now_s: float, kind: Kind) -> str:
    limit: float | None = getattr(team, kind)
    hours: float = getattr(used(spans, name, team.period_s, now_s), kind)
    if limit is None or hours < limit:
        return ""
    told = f"team {name} has used {hours:.4g} of {limit:g} {_IN_WORDS[kind]} per {team.per}"
    if not limit:
        return f"{told}; its quota must be raised"
    free_s = below_limit_at(spans, name, team.period_s, now_s, kind, limit)
    when = datetime.fromtimestamp(free_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return f"{told}; below that again at {when} at the earliest"
