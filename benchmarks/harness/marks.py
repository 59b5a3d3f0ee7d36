"""When things happened in a sweep's trials, and what all of its processes had computed by then."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil


@dataclass(frozen=True)
class Marks:
    """A file that trials, each in its own process, add lines to.

    Attributes:
        path: The file.
        driver: Process id of the sweep's driver, the ancestor of all that works for it.
    """

    path: Path
    driver: int

    def note(self, event: str, **more: Any) -> None:
        """Add a line, with the time and the CPU-seconds up to now."""
        line = {"event": event, "time": time.time(), "cpu_s": cpu_seconds(self.driver), "process": os.getpid(), **more}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def of(self, event: str) -> list[dict[str, Any]]:
        """What was noted of an event, in order of time."""
        lines = [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]
        return sorted((line for line in lines if line["event"] == event), key=lambda line: float(line["time"]))


def cpu_seconds(ancestor: int) -> float:
    """CPU time of a process, of all that descend from it, and of those among them that have ended."""
    found = 0.0
    for process in [psutil.Process(ancestor), *psutil.Process(ancestor).children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):  # ended meanwhile; its parent has its time
            found += sum(process.cpu_times()[:4])  # its own, and that of the children that it has waited for
    return found
