"""When things happened in a sweep's trials, and what all of its processes had computed by then."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

_INTERVAL_S = 0.2


@dataclass(frozen=True)
class Marks:
    """A file that trials, each in its own process, add lines to.

    Attributes:
        path: The file.
    """

    path: Path

    def note(self, event: str, **more: Any) -> None:
        """Add a line, with the time and the CPU-seconds up to now."""
        line = {"event": event, "time": time.time(), "cpu_s": float(self._meter.read_text()), **more}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def of(self, event: str) -> list[dict[str, Any]]:
        """What was noted of an event, in order of time."""
        lines = [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]
        return sorted((line for line in lines if line["event"] == event), key=lambda line: float(line["time"]))

    @contextmanager
    def metering(self) -> Iterator[None]:
        """Keep count of the CPU time of this process and of all that descend from it, for the length of a block.

        Ray reaps its workers without taking over their times, so each is read while it lives: of one that ends, up to
        the last reading.
        """
        me, done = psutil.Process(), threading.Event()
        spent: dict[tuple[int, float], float] = {}
        before = sum(me.cpu_times()[:2])

        def read() -> None:
            for process in [me, *me.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess):
                    spent[process.pid, process.create_time()] = sum(process.cpu_times()[:2])
            half_made = self._meter.with_suffix(".partial")
            half_made.write_text(str(sum(spent.values()) - before))
            half_made.replace(self._meter)

        def keep_reading() -> None:
            while not done.wait(_INTERVAL_S):
                read()

        read()
        reader = threading.Thread(target=keep_reading, daemon=True)
        reader.start()
        try:
            yield
        finally:
            done.set()
            reader.join()

    @property
    def _meter(self) -> Path:
        return self.path.with_suffix(".cpu_s")
