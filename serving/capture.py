"""Keeps a sample of requests and answers. The ingress only gathers them; another process redacts and writes."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from luthier.config.capture import CaptureConfig
from luthier.serving.capture_files import open_directory
from luthier.serving.capture_writer import WRITTEN
from luthier.serving.record import Record
from luthier.serving.replies import Part

logger = logging.getLogger("ray.serve")

Outcome = Literal["written", "dropped", "refused"]
"""What became of a request: kept; left out because others still waited, or the writer had ended; left out because it could
not be redacted or written."""

_QUEUE_REQUESTS = 64
_RESTART_S = 10.0
_CLOSE_S = 5.0
_TOLD_EVERY_S = 60.0


@dataclass
class _Taken:
    asked: dict[str, Any]
    parts: list[Part] = field(default_factory=list)


class Capture:
    """Gathers requests on the event loop, and hands them to the writer on a thread of its own.

    Args:
        settings: What is kept, and where.
        count: Told of each request's outcome.

    Raises:
        ConfigError: The directory or the key of digests can't be used.
    """

    def __init__(self, settings: CaptureConfig, count: Callable[[Outcome], None] = lambda outcome: None) -> None:
        open_directory(settings)
        self._settings = settings
        self._count = count
        self._open: dict[int, _Taken] = {}
        self._queue: queue.Queue[tuple[dict[str, Any], _Taken] | None] = queue.Queue(_QUEUE_REQUESTS)
        self._left_out: dict[str, int] = {}
        self._told_at = -_TOLD_EVERY_S
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._hand_on, name="capture", daemon=True)
        self._thread.start()

    def listen(self, record: Record, fields: Mapping[str, Any], parts: AsyncGenerator[Part]) -> AsyncGenerator[Part]:
        """The parts of an answer, which are gathered where the request is one of the sample."""
        return self._gathered(record, fields, parts) if self.chooses(record.request_id) else parts

    def chooses(self, request_id: str) -> bool:
        """Whether a request is one of the sample."""
        drawn = int.from_bytes(hashlib.sha256(request_id.encode("utf-8", "replace")).digest()[:8])
        return drawn < self._settings.sample * 2**64

    async def _gathered(
        self, record: Record, fields: Mapping[str, Any], parts: AsyncGenerator[Part]
    ) -> AsyncGenerator[Part]:
        taken = _Taken({name: fields[name] for name in ("messages", "prompt") if name in fields})
        self._open[id(record)] = taken
        async with aclosing(parts):
            async for part in parts:
                if isinstance(part, dict | str):
                    taken.parts.append(part)
                yield part

    def saw(self, record: Record) -> None:
        """Hand a request on that has ended."""
        taken = self._open.pop(id(record), None)
        if taken is None:
            return
        if _of_tokens(taken.asked.get("prompt")):
            self._leave_out("refused", "a prompt of token ids can't be redacted")
            return
        try:
            self._queue.put_nowait((record.as_dict(), taken))
        except queue.Full:
            self._leave_out("dropped", "requests come faster than they are written")

    def close(self) -> None:
        """Write what waits, and end the writer."""
        with suppress(queue.Full):  # then the writer is stuck, and ends with this process
            self._queue.put(None, timeout=_CLOSE_S)
        self._thread.join(_CLOSE_S)

    def _hand_on(self) -> None:
        """The thread: one request after another, to a process that is started when the first one comes."""
        process: subprocess.Popen[bytes] | None = None
        ended_at = -_RESTART_S
        while (waiting := self._queue.get()) is not None:
            facts, taken = waiting
            if process is None and time.monotonic() - ended_at < _RESTART_S:
                self._leave_out("dropped", "the writer has ended; its own message stands above")
                continue
            try:
                process = process or _start(self._settings)
                answer = _ask(process, {"facts": facts, "asked": taken.asked, "parts": taken.parts})
            except OSError as error:
                _end(process)
                ended_at, process = time.monotonic(), None
                self._leave_out("dropped", f"the writer has ended ({type(error).__name__})")
                continue
            if answer.decode() == WRITTEN:
                self._count("written")
            else:
                self._leave_out("refused", answer.decode())
        _end(process)

    def _leave_out(self, outcome: Outcome, why: str) -> None:
        """Count a request that is not kept, and say so now and then."""
        self._count(outcome)
        with self._lock:
            self._left_out[why] = self._left_out.get(why, 0) + 1
            if time.monotonic() - self._told_at < _TOLD_EVERY_S:
                return
            self._told_at = time.monotonic()
            told, self._left_out = self._left_out, {}
        logger.warning("requests not captured: %s", "; ".join(f"{number}: {why}" for why, number in told.items()))


def _of_tokens(prompt: object) -> bool:
    return isinstance(prompt, list) and not all(isinstance(one, str) for one in prompt)


def _start(settings: CaptureConfig) -> subprocess.Popen[bytes]:
    # Ray puts what a job brought on this process's path alone.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "luthier.serving.capture_writer"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    assert process.stdin is not None
    process.stdin.write(settings.model_dump_json().encode() + b"\n")
    return process


def _ask(process: subprocess.Popen[bytes], request: Mapping[str, Any]) -> bytes:
    """What the writer says of a request.

    Raises:
        OSError: It has ended.
    """
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(json.dumps(request).encode() + b"\n")
    process.stdin.flush()
    answer = process.stdout.readline().strip()
    if not answer:
        raise BrokenPipeError
    return answer


def _end(process: subprocess.Popen[bytes] | None) -> None:
    if process is not None:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):  # what it did not take is lost, and counted
                    pipe.close()
