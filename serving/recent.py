"""How the requests of the last minutes went."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from luthier.served_schema import Percentiles
from luthier.serving.record import Record

WINDOW_S = 300.0

_MOST_REQUESTS = 10_000


@dataclass(frozen=True)
class Figures:
    """How the requests to one version went.

    Attributes:
        requests: How many have ended.
        failed: How many of them failed: 5xx, a timeout, an adapter that can't be loaded.
        requests_per_s: Requests a second.
        prompt_tokens_per_s: Tokens of prompts a second.
        tokens_per_s: Tokens of answers a second.
        ttft_p50_s: Time to the first piece of a stream, median; None: there was no stream.
        ttft_p95_s: Likewise, of 95 in 100 streams at most.
    """

    requests: int
    failed: int
    requests_per_s: float
    prompt_tokens_per_s: float
    tokens_per_s: float
    ttft_p50_s: float | None
    ttft_p95_s: float | None

    def as_dict(self) -> dict[str, Any]:
        """Plain data, rounded, with the rate of failures."""
        rate = self.failed / self.requests if self.requests else 0.0
        plain = {**asdict(self), "error_rate": rate}
        return {name: round(value, 4) if isinstance(value, float) else value for name, value in plain.items()}


@dataclass(frozen=True)
class _Ended:
    at_s: float
    model: str
    failed: bool
    prompt_tokens: int
    completion_tokens: int
    ttft_s: float | None


class Recent:
    """Keeps the requests of the last minutes; of very many, the last ones.

    Args:
        clock: Seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began_s = clock()
        self._ended: deque[_Ended] = deque()

    def saw(self, record: Record) -> None:
        """Take up a request that has ended."""
        ttft_s = record.first_s if record.stream and record.status == 200 else None
        tokens = record.prompt_tokens, record.completion_tokens
        self._ended.append(_Ended(self._clock(), record.model, record.failed_here, *tokens, ttft_s))
        if len(self._ended) > _MOST_REQUESTS:
            self._began_s = self._ended.popleft().at_s

    @property
    def window_s(self) -> float:
        """Seconds that the figures are of; more than none."""
        return max(min(WINDOW_S, self._clock() - self._began_s), 1.0)

    def figures(self) -> dict[str, Figures]:
        """Figures by version, of those that were asked."""
        while self._ended and self._ended[0].at_s < self._clock() - WINDOW_S:
            self._ended.popleft()
        by_model: dict[str, list[_Ended]] = {}
        for one in self._ended:
            by_model.setdefault(one.model, []).append(one)
        return {model: _figures(ended, self.window_s) for model, ended in by_model.items()}


NONE = Figures(0, 0, 0.0, 0.0, 0.0, None, None)
"""Of a version that nobody asked."""


def _figures(ended: Sequence[_Ended], window_s: float) -> Figures:
    streamed = [one.ttft_s for one in ended if one.ttft_s is not None]
    ttft_s = Percentiles.of(streamed) if streamed else None
    return Figures(
        requests=len(ended),
        failed=sum(one.failed for one in ended),
        requests_per_s=len(ended) / window_s,
        prompt_tokens_per_s=sum(one.prompt_tokens for one in ended) / window_s,
        tokens_per_s=sum(one.completion_tokens for one in ended) / window_s,
        ttft_p50_s=ttft_s.p50 if ttft_s else None,
        ttft_p95_s=ttft_s.p95 if ttft_s else None,
    )
