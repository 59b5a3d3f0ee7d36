"""A queue's jobs and teams as tables."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from luthier.cluster.queue.report import TeamUse
    from luthier.cluster.queue.ticket import Ticket


def tickets_view(tickets: Sequence[Ticket]) -> Table:
    """A line for each job."""
    table = Table("job", "team", "priority", "asks for", "state", "for", "why")
    for one in tickets:
        cells = (one.id, one.team, str(one.priority), str(one.gang), one.status, _since(one), one.reason)
        table.add_row(*cells)
    return table


def ticket_view(ticket: Ticket) -> str:
    """All about one job; lines to be copied whole."""
    lines = [
        f"{ticket.id}: {ticket.status}" + (f", {ticket.reason}" if ticket.reason else ""),
        f"run {ticket.name}, verb {ticket.verb}, team {ticket.team}, priority {ticket.priority}",
        f"asks for {ticket.gang}",
        f"submitted {_at(ticket.submitted_s)}",
    ]
    for attempt in ticket.attempts:
        ended = "runs" if attempt.ended_s is None else f"ended {_at(attempt.ended_s)}: {attempt.status}"
        code = "" if attempt.exit_code is None else f", exit code {attempt.exit_code}"
        lines.append(f"job {attempt.job_id}: started {_at(attempt.started_s)}, {ended}{code}")
    return "\n".join(lines)


def teams_view(teams: Sequence[TeamUse]) -> Table:
    """A line for each team."""
    table = Table("team", "accelerator-hours", "CPU-hours", "per", "weight", "runs", "waits")
    for one in teams:
        table.add_row(
            one.team,
            _of(one.accelerator_hours, one.accelerator_hours_quota),
            _of(one.cpu_hours, one.cpu_hours_quota),
            one.per,
            f"{one.weight:g}",
            str(one.num_running),
            str(one.num_queued),
        )
    return table


def _of(used: float, quota: float | None) -> str:
    return f"{used:.1f}" if quota is None else f"{used:.1f} of {quota:g}"


def _since(ticket: Ticket) -> str:
    begun_s = ticket.attempts[-1].started_s if ticket.holds and ticket.attempts else ticket.submitted_s
    ended_s = ticket.attempts[-1].ended_s if ticket.is_over and ticket.attempts else None
    seconds = int((ended_s or time.time()) - begun_s)
    return f"{seconds // 3600}:{seconds % 3600 // 60:02}:{seconds % 60:02}"


def _at(moment_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment_s))
