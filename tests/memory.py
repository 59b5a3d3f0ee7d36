"""The most memory that something holds at a time."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import pyarrow as pa


def peak_bytes(work: Callable[[], object]) -> int:
    """The most bytes that Python and Arrow allocate in this process while the work is done."""
    usual = pa.default_memory_pool()
    counting = pa.proxy_memory_pool(usual)
    pa.set_memory_pool(counting)
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] + int(counting.max_memory())
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(usual)
