"""The run's measurements: one JSON object a line, and the same in TensorBoard's format."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from luthier.digests import atomic_write_text

Metrics = dict[str, float]
FILE_NAME = "metrics.jsonl"


class MetricsWriter:
    """Appends rows to ``metrics.jsonl`` and to ``tensorboard/``.

    Args:
        directory: The run's directory.
        resume_after_step: Rows of later steps, left by an attempt that died, are removed first.
    """

    def __init__(self, directory: Path, resume_after_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        path = directory / FILE_NAME
        kept = [row for row in read_metrics(path) if row["step"] <= resume_after_step]
        atomic_write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
        self._stream = path.open("a", buffering=1)
        self._board = SummaryWriter(str(directory / "tensorboard"), purge_step=resume_after_step + 1)  # type: ignore[no-untyped-call]

    def write(self, row: Metrics) -> None:
        """Append one row; it has at least ``step``."""
        self._stream.write(json.dumps(row) + "\n")
        for name, value in row.items():
            if name != "step":
                self._board.add_scalar(name, value, int(row["step"]))  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Write out what is buffered."""
        self._stream.close()
        self._board.close()  # type: ignore[no-untyped-call]


def read_metrics(path: Path) -> list[Metrics]:
    """All whole rows of a metrics file; none where there is no file."""
    return list(_whole_rows(path.read_text())) if path.exists() else []


def _whole_rows(text: str) -> Iterator[Metrics]:
    for line in text.splitlines(keepends=True):
        if line.endswith("\n"):
            yield json.loads(line)


class MetricsTail:
    """Calls back with each row that is appended to a metrics file while the block runs.

    A restarted attempt puts a shorter file in its place; of that, the rows that were told already are not told again.
    """

    def __init__(self, path: Path, on_row: Callable[[Metrics], None], interval_s: float = 0.2) -> None:
        self._path = path
        self._on_row = on_row
        self._interval_s = interval_s
        self._done = threading.Event()
        self._inode, self._offset = 0, 0
        self._told = self._new_lines()
        self._thread = threading.Thread(target=self._follow, daemon=True, name="metrics-tail")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._done.wait(self._interval_s):
            self._forward()
        self._forward()

    def _forward(self) -> None:
        known, inode = self._told, self._inode
        lines = self._new_lines()
        if self._inode == inode:
            self._told = known + lines if lines else known
            new = lines
        else:
            alike = [line == told for line, told in zip(lines, known, strict=False)]
            self._told, new = lines, lines[alike.index(False) if False in alike else len(alike) :]
        for line in new:
            self._on_row(json.loads(line))

    def _new_lines(self) -> list[str]:
        """Whole lines behind what was read before; of a file that was put in its place, all."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as stream:
            inode = os.fstat(stream.fileno()).st_ino
            if inode != self._inode:
                self._inode, self._offset = inode, 0
            stream.seek(self._offset)
            data = stream.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        return whole.decode().splitlines(keepends=True)
