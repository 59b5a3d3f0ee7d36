"""Progress bars: how far something is, in figures and time left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


@dataclass(frozen=True)
class Bar:
    """How far something is.

    Attributes:
        name: Of what is counted.
        done: Of ``total``.
        total: When it is complete.
        figures: What else there is to say, such as loss and tokens/s.
    """

    name: str
    done: int
    total: int
    figures: str = ""


class Bars:
    """The bars of one stage on a terminal; on anything else they are printed once, at the end.

    Args:
        console: Where they are drawn.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    @contextmanager
    def drawn(self) -> Iterator[None]:
        """A block in which bars are drawn."""
        self.open()
        try:
            yield
        finally:
            self.close()

    def open(self) -> None:
        """Begin to draw."""
        columns = (
            TextColumn("  {task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
        )
        self._tasks = {}
        self._progress = Progress(*columns, console=self._console)
        self._progress.start()

    def close(self) -> None:
        """Leave the bars as they stand."""
        if self._progress is not None:
            self._progress.stop()
        self._progress = None

    def show(self, bar: Bar) -> None:
        """Draw a bar, or move it."""
        if self._progress is None:
            return
        if bar.name not in self._tasks:
            self._tasks[bar.name] = self._progress.add_task(bar.name, total=bar.total, figures=bar.figures)
        self._progress.update(self._tasks[bar.name], completed=bar.done, total=bar.total, figures=bar.figures)
