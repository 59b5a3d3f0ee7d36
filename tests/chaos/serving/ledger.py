"""Load on an endpoint, and a ledger of how each of its requests ended."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import httpx

Outcome = Literal["whole", "refused", "failed", "broken"]
"""``whole``: every piece came, then ``[DONE]``. ``refused``: an error instead of an answer. ``failed``: an error event ended
the stream. ``broken``: the stream ended with neither, which a client can't tell from an answer."""


@dataclass(frozen=True)
class Entry:
    """One request.

    Attributes:
        began: Clock at its start, in seconds.
        ended: Clock at its end, in seconds.
        outcome: How it ended.
        detail: The status, or what was told.
        pieces: Pieces of the answer that came.
        done: Whether ``[DONE]`` came.
    """

    began: float
    ended: float
    outcome: Outcome
    detail: str
    pieces: int
    done: bool


@dataclass
class Ledger:
    """Every request of a load."""

    entries: list[Entry] = field(default_factory=list)

    def counts(self) -> dict[Outcome, int]:
        """Requests by outcome."""
        return dict(Counter(entry.outcome for entry in self.entries))

    def told(self) -> list[str]:
        """What was told of each request that did not end whole."""
        return [f"{entry.outcome}: {entry.detail}" for entry in self.entries if entry.outcome != "whole"]

    def require_whole(self) -> None:
        """Every request was answered in full."""
        assert self.entries
        assert not self.told()

    def require_honest(self) -> None:
        """No request ended in a way that a client can't tell from an answer."""
        assert self.entries
        assert all(entry.done == (entry.outcome == "whole") for entry in self.entries)
        assert not [entry for entry in self.entries if entry.outcome == "broken"]


@contextmanager
def load(base_url: str, key: str, model: str, *, concurrency: int, max_tokens: int) -> Iterator[Ledger]:
    """Stream answers on several connections, one after another on each, for the length of a block."""
    ledger, stopped = Ledger(), threading.Event()

    def ask_on() -> None:
        body = {
            "model": model,
            "messages": [{"role": "user", "content": "Tell me about the sea."}],
            "max_tokens": max_tokens,
            "ignore_eos": True,
            "stream": True,
        }
        headers = {"authorization": f"Bearer {key}"}
        with httpx.Client(headers=headers, timeout=180.0) as client:
            while not stopped.is_set():
                entry = _ask(client, f"{base_url}/chat/completions", body)
                ledger.entries.append(entry)
                if entry.outcome != "whole":
                    time.sleep(0.2)

    threads = [threading.Thread(target=ask_on) for _ in range(concurrency)]
    for thread in threads:
        thread.start()
    try:
        yield ledger
    finally:
        stopped.set()
        for thread in threads:
            thread.join()


def _ask(client: httpx.Client, url: str, body: dict[str, object]) -> Entry:
    began, pieces, done = time.monotonic(), 0, False
    outcome: Outcome = "broken"
    detail = "the stream ended without [DONE]"
    try:
        with client.stream("POST", url, json=body) as reply:
            if reply.status_code != 200:
                outcome, detail = "refused", f"{reply.status_code} {reply.read().decode()[:200]}"
            else:
                for line in reply.iter_lines():
                    event = line.removeprefix("data: ")
                    if event == "[DONE]":
                        outcome, detail, done = "whole", "", True
                    elif event and "error" in json.loads(event):
                        outcome, detail = "failed", event
                    elif event:
                        pieces += 1
    except httpx.HTTPError as error:
        outcome, detail = "refused" if pieces == 0 else "broken", repr(error)
    return Entry(began, time.monotonic(), outcome, detail, pieces, done)
