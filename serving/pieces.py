"""Pieces of a stream, gathered so that few messages carry them and none that could go out at once waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import TypeVar

T = TypeVar("T")

INTERVAL_S = 0.05
"""Ray's own interval between two messages of a stream (``stream_batching_interval_ms``)."""


async def gathered(stream: AsyncGenerator[T], interval_s: float = INTERVAL_S) -> AsyncGenerator[list[T]]:
    """Pieces as they come, the first and the last without delay; no two messages follow each other faster than the interval.

    Ray's own batching wakes once in an interval, which keeps the first piece for half an interval on average, and on a
    slow engine each one.

    Args:
        stream: The pieces; closed at the end.
        interval_s: Pieces that come within so many seconds after a message went out share the next one.
    """
    held: list[T] = []
    arrived, ended = asyncio.Event(), asyncio.Event()

    async def read() -> None:
        try:
            async with aclosing(stream):
                async for piece in stream:
                    held.append(piece)
                    arrived.set()
        finally:
            ended.set()
            arrived.set()

    reader = asyncio.create_task(read())
    try:
        while not ended.is_set() or held:
            await arrived.wait()
            arrived.clear()
            if held:
                message, held[:] = list(held), []
                yield message
            with suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), interval_s)
        await reader  # raises what the stream raised
    finally:
        reader.cancel()
