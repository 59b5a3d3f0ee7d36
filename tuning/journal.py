"""What happened in a sweep, line by line on disk, so that the same command goes on where the last one was cut off.

Lines of JSON, each on the storage before the sweep acts on it. Ray Tune's own way to restore a sweep unpickles files from
the directory and forgets what happened since its last snapshot; it is not used.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from luthier.digests import atomic_write_text
from luthier.errors import OutputError

FILE_NAME = "sweep.jsonl"

Event = dict[str, Any]


class Journal:
    """The events of one sweep, in order.

    Args:
        path: The file; made where it is not there.
        identity: Digest of what the sweep is.

    Raises:
        OutputError: The file belongs to another sweep, is damaged, or can't be written.
    """

    def __init__(self, path: Path, identity: str) -> None:
        self._path = path
        self.events = _read(path)
        if self.events and self.events[0].get("identity") != identity:
            raise OutputError(
                f"{path} is of a sweep with other settings or data; choose another directory, or remove it."
            )
        try:
            atomic_write_text(path, "".join(map(_line, self.events)))  # without a last line that was cut off
        except OSError as error:
            raise OutputError(f"the sweep's journal {path} can't be written: {error}.") from error
        if not self.events:
            self.append({"event": "sweep", "identity": identity})

    def append(self, event: Event) -> None:
        """Put one event on the storage.

        Raises:
            OutputError: It can't be written.
        """
        self.events.append(event)
        try:
            with self._path.open("a", encoding="utf-8") as stream:
                stream.write(_line(event))
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise OutputError(f"the sweep's journal {self._path} can't be written: {error}.") from error


def _line(event: Event) -> str:
    return json.dumps(event) + "\n"


def _read(path: Path) -> list[Event]:
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    events = []
    for number, line in enumerate(lines, start=1):
        try:
            events.append(json.loads(line))
        except ValueError as error:
            if number == len(lines):  # the command ended while it wrote
                break
            raise OutputError(
                f"{path}:{number}: the sweep's journal is damaged ({error}); remove it to begin anew."
            ) from error
    return events
