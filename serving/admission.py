"""Which requests are let in: as many at a time as the endpoint holds, and as often as a key may ask."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from luthier.serving.keys import ApiKey


@dataclass
class _Bucket:
    tokens: float
    at_s: float


class Admission:
    """Counts requests. Each key with a rate has a token bucket, which holds a minute's requests and fills evenly.

    Args:
        capacity: Requests at a time, those that wait included.
        clock: Seconds that only grow.
    """

    def __init__(self, capacity: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.capacity = capacity
        """The most of them."""
        self._clock = clock
        self.inside = 0
        """Requests that are answered or wait."""
        self._buckets: dict[str, _Bucket] = {}

    def enter(self) -> bool:
        """Take a place, where one is free; whoever took it has to :meth:`leave`."""
        if self.inside >= self.capacity:
            return False
        self.inside += 1
        return True

    def leave(self) -> None:
        """Free a place."""
        self.inside -= 1

    def wait_s(self, key: ApiKey) -> int | None:
        """Count a request of the key.

        Returns:
            None where it may pass; else after how many seconds the next one may.
        """
        if key.requests_per_minute is None:
            return None
        now, size = self._clock(), float(key.requests_per_minute)
        bucket = self._buckets.setdefault(key.sha256, _Bucket(size, now))
        bucket.tokens = min(size, bucket.tokens + (now - bucket.at_s) * size / 60.0)
        bucket.at_s = now
        if bucket.tokens < 1.0:
            return math.ceil((1.0 - bucket.tokens) * 60.0 / size)
        bucket.tokens -= 1.0
        return None
