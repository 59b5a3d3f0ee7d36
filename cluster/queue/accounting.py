"""What teams have used: hours of accelerators and CPUs, within a window that ends now."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

HOUR_S = 3600.0

Kind = Literal["accelerator_hours", "cpu_hours"]

_PRECISION_S = 1.0


class Span(BaseModel):
    """One attempt of a job on the cluster."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    team: str
    started_s: float
    """Unix time."""
    ended_s: float | None
    """Unix time; None: it runs."""
    accelerators: float
    """That it holds, whether it computes or not."""
    cpus: float
    """Of a job without accelerators."""


class Used(BaseModel):
    """Hours within a window."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    accelerator_hours: float = 0.0
    cpu_hours: float = 0.0


def used(spans: Iterable[Span], team: str, window_s: float, now_s: float) -> Used:
    """A team's hours in the window that ends now; what runs counts up to now."""
    accelerators = cpus = 0.0
    for span in spans:
        if span.team == team:
            end_s = now_s if span.ended_s is None else min(span.ended_s, now_s)
            hours = max(0.0, end_s - max(span.started_s, now_s - window_s)) / HOUR_S
            accelerators += hours * span.accelerators
            cpus += hours * span.cpus
    return Used(accelerator_hours=accelerators, cpu_hours=cpus)


def below_limit_at(spans: Sequence[Span], team: str, window_s: float, now_s: float, kind: Kind, limit: float) -> float:
    """When enough hours have left the window, should nothing of the team run from now on.

    Args:
        spans: All attempts.
        team: Whose.
        window_s: The window's length.
        now_s: Unix time.
        kind: Which hours.
        limit: Hours.

    Returns:
        Unix time, to a second; now, where the limit is not reached.
    """
    past = [span.model_copy(update={"ended_s": span.ended_s or now_s}) for span in spans if span.team == team]

    def reached(at_s: float) -> bool:
        return float(getattr(used(past, team, window_s, at_s), kind)) >= limit

    if not reached(now_s):
        return now_s
    low_s, high_s = now_s, now_s + window_s
    while high_s - low_s > _PRECISION_S:
        middle_s = (low_s + high_s) / 2
        low_s, high_s = (middle_s, high_s) if reached(middle_s) else (low_s, middle_s)
    return high_s
