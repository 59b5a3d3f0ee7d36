from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from luthier.serving.pieces import gathered

LONG_S = 60.0


async def spaced(*pieces: str, gap_s: float = 0.0, closed: list[str] | None = None) -> AsyncGenerator[str]:
    try:
        for piece in pieces:
            yield piece
            await asyncio.sleep(gap_s)
    finally:
        if closed is not None:
            closed.append("closed")


def test_the_first_piece_goes_out_at_once_and_the_rest_when_the_stream_ends() -> None:
    async def run() -> list[list[str]]:
        return [message async for message in gathered(spaced("a", "b", "c", gap_s=0.01), interval_s=LONG_S)]

    assert asyncio.run(asyncio.wait_for(run(), 10)) == [["a"], ["b", "c"]]


def test_pieces_that_are_slower_than_the_interval_wait_for_nothing() -> None:
    async def run() -> list[list[str]]:
        return [message async for message in gathered(spaced("a", "b", "c", gap_s=0.1), interval_s=0.001)]

    assert asyncio.run(run()) == [["a"], ["b"], ["c"]]


def test_an_empty_stream_ends() -> None:
    async def run() -> list[list[str]]:
        return [message async for message in gathered(spaced(), interval_s=LONG_S)]

    assert asyncio.run(asyncio.wait_for(run(), 10)) == []


def test_a_fault_follows_the_pieces_before_it() -> None:
    async def faulty() -> AsyncGenerator[str]:
        yield "a"
        yield "b"
        raise RuntimeError("the engine died")

    async def run() -> list[str]:
        seen: list[str] = []
        with pytest.raises(RuntimeError, match="the engine died"):
            async for message in gathered(faulty(), interval_s=LONG_S):
                seen += message
        return seen

    assert asyncio.run(asyncio.wait_for(run(), 10)) == ["a", "b"]


def test_who_stops_reading_closes_the_stream() -> None:
    closed: list[str] = []

    async def run() -> None:
        messages = gathered(spaced("a", "b", gap_s=LONG_S, closed=closed))
        assert await anext(messages) == ["a"]
        await messages.aclose()
        await asyncio.sleep(0.01)

    asyncio.run(run())
    assert closed == ["closed"]
