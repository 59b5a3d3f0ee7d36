"""Tests of whether a difference is more than chance, and what many of them together are worth.

Shape legend: N rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from scipy.stats import binomtest, chi2

from luthier.evaluation_parts import McNemar
from luthier.trainers.evaluation.metrics import BoolArray

FEW_DISCORDANT = 25
"""Of fewer differing rows the chi-squared approximation is poor, so that the exact test is taken (Fagerland et al. 2013)."""


def mcnemar(first_N: BoolArray, second_N: BoolArray) -> McNemar:
    """McNemar's test (1947) of two variants on the same rows, not adjusted for others.

    Args:
        first_N: Which rows the first variant has right.
        second_N: Which the second.
    """
    gained, lost = int((first_N & ~second_N).sum()), int((second_N & ~first_N).sum())
    differing = gained + lost
    if differing < FEW_DISCORDANT:
        p_value = float(binomtest(gained, differing).pvalue) if differing else 1.0
        return McNemar(
            n=len(first_N), gained=gained, lost=lost, method="exact binomial", p_value=p_value, p_adjusted=p_value
        )
    # Edwards (1948) moves the difference towards none by 1.
    statistic = max(abs(gained - lost) - 1, 0) ** 2 / differing
    p_value = float(chi2.sf(statistic, df=1))
    method = "chi-squared with continuity correction"
    return McNemar(n=len(first_N), gained=gained, lost=lost, method=method, p_value=p_value, p_adjusted=p_value)


def mcnemar_tests(
    right: Mapping[str, Mapping[str, BoolArray]], pairs: Sequence[tuple[str, str]]
) -> dict[str, dict[str, McNemar]]:
    """By pair (``tuned-base``) and metric the test, its p-value adjusted for the other pairs of the same metric.

    Args:
        right: By variant and metric, which rows are right.
        pairs: The variants to compare.
    """
    tests = {
        f"{first}-{second}": {
            metric: mcnemar(rows_N, right[second][metric])
            for metric, rows_N in right[first].items()
            if metric in right[second]
        }
        for first, second in pairs
    }
    for metric in dict.fromkeys(metric for found in tests.values() for metric in found):
        concerned = [found for found in tests.values() if metric in found]
        adjusted = holm([found[metric].p_value for found in concerned])
        for found, p_adjusted in zip(concerned, adjusted, strict=True):
            found[metric] = found[metric].model_copy(update={"p_adjusted": p_adjusted})
    return {pair: found for pair, found in tests.items() if found}


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for being several, in their order (Holm 1979): that any true null hypothesis is rejected at a
    level has no greater probability than that level."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted
