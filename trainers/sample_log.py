"""Which rows each optimizer step learned from, by their ids: proof that none was repeated or skipped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from luthier.digests import atomic_write_text
from luthier.trainers.batches import Batch
from luthier.trainers.strategies.base import Worker

_NAME = "samples-{rank}.jsonl"


class SampleLog:
    """Appends what one worker learned from at each step to ``samples-<rank>.jsonl``.

    Args:
        directory: The run's directory.
        worker: This process.
        resume_after_step: Later steps, noted by an attempt that died, are removed first; rank 0 also removes them from
            the logs of workers that are gone.
    """

    def __init__(self, directory: Path, worker: Worker, resume_after_step: int) -> None:
        mine = directory / _NAME.format(rank=worker.rank)
        gone = (path for path in directory.glob(_NAME.format(rank="*")) if _rank_of(path) >= worker.world_size)
        for path in (mine, *gone) if worker.rank == 0 else (mine,):
            kept = [row for row in _rows(path) if row["step"] <= resume_after_step]
            atomic_write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
        self._stream = mine.open("a", buffering=1)

    def write(self, step: int, batches: Sequence[Batch]) -> None:
        """Note a step's micro-batches, which follow each other."""
        ids = [list(batch.row_ids) for batch in batches]
        self._stream.write(json.dumps({"step": step, "micro_batches": ids}) + "\n")

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def read_samples(directory: Path) -> dict[int, list[list[list[str]]]]:
    """Row ids by step (ascending), worker and micro-batch."""
    steps: dict[int, list[list[list[str]]]] = {}
    for path in sorted(directory.glob(_NAME.format(rank="*")), key=_rank_of):
        for row in _rows(path):
            steps.setdefault(row["step"], []).append(row["micro_batches"])
    return dict(sorted(steps.items()))


def _rank_of(path: Path) -> int:
    return int(path.stem.partition("-")[2])


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]
