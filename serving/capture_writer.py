"""The process that redacts and writes captured requests, so that none of it takes time from requests.

It reads one JSON object a line: first what is set, then requests. It answers each with a line: ``written``, or why not.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO

from luthier.config.capture import CaptureConfig
from luthier.pii import Redactor
from luthier.serving.capture_files import Files, open_directory
from luthier.serving.capture_form import captured

WRITTEN = "written"
"""Said of a request that is kept."""

LONGEST_S = 10.0
"""How long one request may take; one that takes longer is not kept."""


def main(incoming: BinaryIO, outgoing: BinaryIO) -> None:
    """Serve until the other side closes its end.

    Raises:
        ConfigError: The directory can't be used.
    """
    settings = CaptureConfig.model_validate_json(incoming.readline())
    write = writer(settings)
    for line in incoming:
        outgoing.write(write(line).encode() + b"\n")
        outgoing.flush()


def writer(settings: CaptureConfig) -> Callable[[bytes], str]:
    """What takes up one request's line and tells what became of it.

    Raises:
        ConfigError: The directory can't be used.
    """
    key = open_directory(settings)
    assert settings.path is not None
    files = Files(Path(settings.path), settings.max_file_bytes, settings.max_files)

    def write(line: bytes) -> str:
        try:
            with _within(LONGEST_S):
                request: dict[str, Any] = json.loads(line)
                redactor = Redactor(settings.redact, settings.kinds, settings.phone_regions, key)
                kept = captured(request["facts"], request["asked"], request["parts"], redactor)
                encoded = json.dumps(kept, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
            files.append(encoded)
        except Exception as error:  # whatever it is, what may not be redacted is not kept
            reason = getattr(error, "strerror", None)  # the message of any other may repeat what was said
            return f"{type(error).__name__}: {reason}" if reason else type(error).__name__
        return WRITTEN

    return write


@contextmanager
def _within(seconds: float) -> Iterator[None]:
    """Raise within a block that takes longer; the signal also ends a search of the ``re`` module."""
    before = signal.signal(signal.SIGALRM, _too_long)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def _too_long(number: int, frame: FrameType | None) -> None:
    raise TimeoutError


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is for the endpoint, whose end ends this
    main(sys.stdin.buffer, sys.stdout.buffer)
