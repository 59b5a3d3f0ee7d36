"""Watches canaries: one that fails more often than the version beside it, or is slower, is ended."""

from __future__ import annotations

import statistics
from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass

from luthier.config.serve import CanaryConfig
from luthier.serving.names import Split
from luthier.serving.record import Record


@dataclass(frozen=True)
class Breach:
    """Why a canary is ended.

    Attributes:
        reason: One sentence.
        figures: What it rests on.
    """

    reason: str
    figures: dict[str, float]


class CanaryWatch:
    """Keeps how the last requests of each version went.

    Args:
        limits: When a canary has failed.
    """

    def __init__(self, limits: CanaryConfig) -> None:
        self._limits = limits
        self._failed: dict[str, deque[bool]] = defaultdict(lambda: deque(maxlen=limits.window_requests))
        self._first_s: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=limits.window_requests))

    def saw(self, record: Record) -> None:
        """Take up a request that has ended. What the client did wrong, or broke off, says nothing of the version."""
        if record.status == 200 and record.first_s is not None:
            self._failed[record.model].append(False)
            self._first_s[record.model].append(record.first_s)
        elif record.failed_here:
            self._failed[record.model].append(True)

    def forget(self, models: Iterable[str]) -> None:
        """Begin anew with versions, of which one has become a canary."""
        for model in models:
            self._failed.pop(model, None)
            self._first_s.pop(model, None)

    def breach(self, split: Split) -> Breach | None:
        """Why a canary has to end; None: it need not, or too few requests have been seen."""
        failed = self._failed[split.canary]
        if len(failed) < self._limits.min_requests:
            return None
        rates = {"canary": _mean(failed), "stable": _mean(self._failed[split.stable])}
        if rates["canary"] > rates["stable"] + self._limits.max_error_rate:
            return Breach(
                f"{split.canary} failed in {rates['canary']:.1%} of its last {len(failed)} requests, {split.stable} in "
                f"{rates['stable']:.1%}.",
                {"canary_error_rate": rates["canary"], "stable_error_rate": rates["stable"], "requests": len(failed)},
            )
        ours, theirs = self._first_s[split.canary], self._first_s[split.stable]
        if min(len(ours), len(theirs)) < self._limits.min_requests:
            return None
        medians = statistics.median(ours), statistics.median(theirs)
        if medians[0] <= medians[1] * self._limits.max_latency_ratio:
            return None
        return Breach(
            f"the first piece of {split.canary}'s answers takes {medians[0]:.3f} s, of {split.stable}'s {medians[1]:.3f} s "
            "(medians).",
            {"canary_first_s": medians[0], "stable_first_s": medians[1], "requests": len(failed)},
        )


def _mean(values: deque[bool]) -> float:
    return sum(values) / len(values) if values else 0.0
