"""A job's log on this terminal: its text as it was printed, its events as bars."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import Console
from rich.text import Text

from luthier import events
from luthier.bars import Bar, Bars


def whole_lines(pieces: Iterable[str]) -> Iterator[str]:
    """The lines in pieces of text, wherever those are cut."""
    rest = ""
    for piece in pieces:
        *lines, rest = (rest + piece).split("\n")
        yield from lines
    if rest:
        yield rest


class LogScreen:
    """Shows a log.

    Args:
        console: Where.
        bars: Whether to draw progress; without, events are left out.

    Attributes:
        result: What the job's command returned; None: not yet, or nothing.
    """

    def __init__(self, console: Console, *, bars: bool) -> None:
        self.result: Any = None
        self._console = console
        self._bars = Bars(console) if bars else None

    def show(self, pieces: Iterable[str]) -> None:
        """Show a log to its end."""
        try:
            for line in whole_lines(pieces):
                self._show_line(line)
        finally:
            if self._bars is not None:
                self._bars.close()

    def _show_line(self, line: str) -> None:
        event = events.parse(line)
        if event is None:
            self._console.print(Text.from_ansi(line), soft_wrap=True)
            return
        kind, content = event
        if kind == "result":
            self.result = content
        elif self._bars is not None:
            self._draw(self._bars, kind, content)

    def _draw(self, bars: Bars, kind: str, content: Any) -> None:
        if kind == "stage":
            bars.close()
            if content == "begins":
                bars.open()
        elif kind == "bar":
            bars.show(Bar(**content))
