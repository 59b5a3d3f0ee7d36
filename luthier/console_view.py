"""What a person sees of a run: stages and notes as text, and progress as bars."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

from rich.console import Console, RenderableType
from rich.markup import escape

from luthier.bars import Bar
from luthier.view import QuietView

if TYPE_CHECKING:
    from luthier.sweep_schema import TrialProgress


class Shows(Protocol):
    """Draws bars, or writes them down."""

    def drawn(self) -> AbstractContextManager[None]:
        """A block, of one stage, in which bars are shown."""
        ...

    def show(self, bar: Bar) -> None:
        """Show how far something is."""
        ...


class ConsoleView(QuietView):
    """Stages and notes as text, and progress as bars.

    Args:
        console: Where to write.
        bars: What shows progress.
    """

    def __init__(self, console: Console, bars: Shows) -> None:
        super().__init__()
        self._console = console
        self._bars = bars
        self._ended_trials: set[str] = set()

    @contextmanager
    def stage(self, name: str, title: str) -> Iterator[None]:
        """See :class:`View`."""
        self._console.print(f"[bold cyan]▸ {escape(title)}[/]")
        with super().stage(name, title), self._bars.drawn():
            yield
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
        self._bars.show(Bar("train", int(row["step"]), int(row["num_steps"]), figures))
        if "eval_loss" in row:
            self.note(f"step {row['step']:.0f}: validation loss {row['eval_loss']:.4f}")

    def on_trial(self, progress: TrialProgress) -> None:
        """See :class:`View`."""
        if progress.status != "running":
            self._ended_trials.add(progress.trial_id)
        best = "" if progress.best_value is None else f"best {progress.best_value:.4f}"
        figures = f"{progress.trial_id} {progress.status} {best}"
        self._bars.show(Bar("trials", len(self._ended_trials), progress.num_trials, figures))

    def on_answers(self, variant: str, done: int, total: int) -> None:
        """See :class:`View`."""
        self._bars.show(Bar(variant, done, total))
