"""Figures of a few rounds that each told something of every size."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

Found = dict[int, list[dict[str, float]]]
"""By size, what each round told."""


def medians_of(found: Found, digits: int) -> dict[int, dict[str, float]]:
    """By size, the median over the rounds of all that they told."""
    return {
        size: {key: round(statistics.median(told[key] for told in rounds), digits) for key in rounds[0]}
        for size, rounds in found.items()
    }


def figures_of_rounds(figures: Mapping[str, Sequence[float]], settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One object for each figure: the median, and the extremes of the rounds.

    Args:
        figures: By name, a value of each round.
        settings: Stand with every one.
    """
    return [
        {
            "name": name,
            "ratio": round(statistics.median(values), 3),
            "low": round(min(values), 3),
            "high": round(max(values), 3),
            "target": None,
            "settings": dict(settings),
        }
        for name, values in figures.items()
    ]
