"""Progress of a run as lines of its log, so that whoever follows a job sees the bars that a local run has."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from luthier.bars import Bar

EVENTS_ENV = "LUTHIER_EVENTS"
"""Set to 1 in a job: progress is written as events."""

_MARK = "@luthier "

_PERIOD_S = 1.0
"""Between two events of a bar; its last one is always written."""


def wanted() -> bool:
    """Whether this process writes events."""
    return os.environ.get(EVENTS_ENV) == "1"


def line_of(kind: str, content: Any) -> str:
    """An event as a line of the log, without its end."""
    return _MARK + json.dumps({kind: content}, default=str, separators=(",", ":"))


def parse(line: str) -> tuple[str, Any] | None:
    """The event in a line of a log; None where it is text."""
    if not line.startswith(_MARK):
        return None
    try:
        ((kind, content),) = json.loads(line.removeprefix(_MARK)).items()
    except (ValueError, AttributeError):
        return None
    return str(kind), content


class BarEvents:
    """Bars as events in a job's log, for those who follow it to draw.

    Args:
        stream: The log.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._last_s: dict[str, float] = {}

    @contextmanager
    def drawn(self) -> Iterator[None]:
        """A block, of one stage, in which bars are shown."""
        self._last_s = {}
        self._write("stage", "begins")
        try:
            yield
        finally:
            self._write("stage", "ended")

    def show(self, bar: Bar) -> None:
        """Write down how far something is, unless that was done a moment ago."""
        now_s = time.monotonic()
        if bar.done < bar.total and now_s - self._last_s.get(bar.name, float("-inf")) < _PERIOD_S:
            return
        self._last_s[bar.name] = now_s
        self._write("bar", asdict(bar))

    def _write(self, kind: str, content: Any) -> None:
        print(line_of(kind, content), file=self._stream, flush=True)
