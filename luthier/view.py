"""What long work tells of itself while it runs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import RenderableType

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
