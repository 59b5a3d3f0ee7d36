"""What a person sees while long work runs: stages, bars with loss, tokens/s and time left. Written to stderr."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from luthier.sweep_schema import TrialProgress


class View(Protocol):
    """Receives what happens in a run."""

    @property
    def timings(self) -> Mapping[str, float]:
        """Seconds spent in each finished stage, in order."""
        ...

    @contextmanager
    def stage(self, name: str, title: str) -> Iterator[None]:
        """Announce a stage, and time it."""
        ...

    def note(self, text: RenderableType) -> None:
        """Say something; a string may hold rich's markup."""
        ...

    def plain(self, text: str) -> None:
        """Print text as it is: commands and paths to copy, and what users or models wrote."""
        ...

    def on_train(self, row: Mapping[str, float]) -> None:
        """A row of the metrics stream."""
        ...

    def on_trial(self, progress: TrialProgress) -> None:
        """A sweep's trial started, validated or ended."""
        ...

    def on_answers(self, variant: str, done: int, total: int) -> None:
        """Rows of the test split were answered."""
        ...


class QuietView:
    """Times stages and says nothing."""

    def __init__(self) -> None:
        self._timings: dict[str, float] = {}

    @property
    def timings(self) -> Mapping[str, float]:
        """See :class:`View`."""
        return self._timings

    @contextmanager
    def stage(self, name: str, title: str) -> Iterator[None]:
        """See :class:`View`."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._timings[name] = self._timings.get(name, 0.0) + time.monotonic() - began

    def note(self, text: RenderableType) -> None:
        """See :class:`View`."""

    def plain(self, text: str) -> None:
        """See :class:`View`."""

    def on_train(self, row: Mapping[str, float]) -> None:
        """See :class:`View`."""

    def on_trial(self, progress: TrialProgress) -> None:
        """See :class:`View`."""

    def on_answers(self, variant: str, done: int, total: int) -> None:
        """See :class:`View`."""


class RichView(QuietView):
    """Bars and notes on a terminal; on anything else a line per stage and per validation.

    Args:
        console: Where to write.
    """

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._ended_trials: set[str] = set()

    @contextmanager
    def stage(self, name: str, title: str) -> Iterator[None]:
        """See :class:`View`."""
        self._console.print(f"[bold cyan]▸ {escape(title)}[/]")
        columns = (
            TextColumn("  {task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
        )
        self._tasks = {}
        with super().stage(name, title), Progress(*columns, console=self._console) as self._progress:
            yield
        self._progress = None
        self._console.print(f"  [green]done[/] in {self.timings[name]:.1f} s")

    def note(self, text: RenderableType) -> None:
        """See :class:`View`."""
        self._console.print(text if not isinstance(text, str) else f"  {text}")

    def plain(self, text: str) -> None:
        """See :class:`View`."""
        self._console.print(f"  {text}", markup=False, highlight=False, emoji=False, soft_wrap=True)

    def on_train(self, row: Mapping[str, float]) -> None:
        """See :class:`View`."""
        figures = f"loss {row['loss']:.3f}  {row['tokens_per_s']:,.0f} tokens/s"
        self._advance("train", int(row["step"]), int(row["num_steps"]), figures)
        if "eval_loss" in row:
            self.note(f"step {row['step']:.0f}: validation loss {row['eval_loss']:.4f}")

    def on_trial(self, progress: TrialProgress) -> None:
        """See :class:`View`."""
        if progress.status != "running":
            self._ended_trials.add(progress.trial_id)
        best = "" if progress.best_value is None else f"best {progress.best_value:.4f}"
        self._advance(
            "trials", len(self._ended_trials), progress.num_trials, f"{progress.trial_id} {progress.status} {best}"
        )

    def on_answers(self, variant: str, done: int, total: int) -> None:
        """See :class:`View`."""
        self._advance(variant, done, total, "")

    def _advance(self, name: str, done: int, total: int, figures: str) -> None:
        if self._progress is None:
            return
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=total, figures=figures)
        self._progress.update(self._tasks[name], completed=done, total=total, figures=figures)
