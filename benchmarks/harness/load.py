"""A light client that keeps an OpenAI-compatible endpoint under load, and what it saw of the answers.

While a turn lasts it reads bytes and clocks, nothing else: events are taken apart when the clock has stopped. It needs a
core's time as any client does, the same for every side.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

_TEXT = re.compile(rb'"content":"[^"]')

TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Ask:
    """One streamed, greedy chat completion of a fixed number of tokens.

    Attributes:
        model: Name at the endpoint.
        text: The user's message.
        max_tokens: Tokens of the answer, exactly.
    """

    model: str
    text: str
    max_tokens: int

    def body(self) -> dict[str, Any]:
        """The request."""
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": self.text}],
            "max_tokens": self.max_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }


@dataclass
class Answer:
    """What came back.

    Attributes:
        first_s: Seconds until the first piece of text.
        total_s: Seconds until the end.
        began_s: On the clock of :func:`time.perf_counter`.
        data: The stream.
    """

    first_s: float = 0.0
    total_s: float = 0.0
    began_s: float = 0.0
    data: bytearray = field(default_factory=bytearray)

    def events(self) -> list[dict[str, Any]]:
        """The events of the stream.

        Raises:
            ValueError: It was not whole.
        """
        lines = [line for line in self.data.decode().splitlines() if line.startswith("data: ")]
        if not lines or lines[-1] != "data: [DONE]":
            raise ValueError(f"a stream that is not whole: {self.data[-300:]!r}")
        return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]

    @property
    def text(self) -> str:
        """The answer."""
        return "".join(c["delta"].get("content") or "" for event in self.events() for c in event["choices"])

    @property
    def tokens(self) -> int:
        """Tokens of the answer, as the endpoint counts."""
        return next(int(event["usage"]["completion_tokens"]) for event in self.events() if event.get("usage"))


@dataclass(frozen=True)
class Turn:
    """Requests that were answered, so many at a time.

    Attributes:
        seconds: From the first request to the end of the last answer.
        answers: In the order of the requests.
        cpu_s: CPU time that the endpoint took for it.
    """

    seconds: float
    answers: list[Answer]
    cpu_s: float = 0.0

    @property
    def tokens_per_s(self) -> float:
        """Tokens of all answers by the time of all."""
        return sum(answer.tokens for answer in self.answers) / self.seconds

    @property
    def first_ms(self) -> float:
        """Mean milliseconds until the first piece of text."""
        return sum(answer.first_s for answer in self.answers) / len(self.answers) * 1000


def load(base_url: str, key: str, asks: Sequence[Ask], concurrency: int) -> Turn:
    """Ask all, so many at a time, over connections that are kept.

    Args:
        base_url: Ends with ``/v1``.
        key: API key.
        asks: The requests.
        concurrency: Requests at a time.

    Raises:
        aiohttp.ClientError: The endpoint refused one.
    """
    return asyncio.run(_load(base_url, key, asks, concurrency))


async def _load(base_url: str, key: str, asks: Sequence[Ask], concurrency: int) -> Turn:
    answers = [Answer() for _ in asks]
    waiting = iter(zip(asks, answers, strict=True))
    async with aiohttp.ClientSession(
        headers={"authorization": f"Bearer {key}"},
        connector=aiohttp.TCPConnector(limit=concurrency),
        timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
        raise_for_status=True,
    ) as session:
        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(_client(session, base_url, waiting))
        seconds = time.perf_counter() - began
    return Turn(seconds, answers)


async def _client(session: aiohttp.ClientSession, base_url: str, waiting: Any) -> None:
    for ask, answer in waiting:
        answer.began_s = time.perf_counter()
        async with session.post(f"{base_url}/chat/completions", json=ask.body()) as response:
            async for piece in response.content.iter_any():
                answer.data += piece
                if not answer.first_s and _TEXT.search(piece):
                    answer.first_s = time.perf_counter() - answer.began_s
        answer.total_s = time.perf_counter() - answer.began_s
