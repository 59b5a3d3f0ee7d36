"""Checkpoints written behind the training loop, which waits for the copy and not for the write."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Sequence
from functools import partial

import torch
from safetensors import SafetensorError

from luthier.errors import OutputError
from luthier.trainers.checkpoint import Checkpoint, CheckpointStore
from luthier.trainers.metrics_stream import Metrics
from luthier.trainers.strategies.base import Worker

Write = Callable[[], object]
"""Writes files out of copies that nobody else changes."""

Report = Callable[[Metrics, Checkpoint], None]

_WRITE_ERRORS = (OSError, RuntimeError, SafetensorError)
"""What a full or broken storage raises: Python, torch's zip writer and safetensors each their own."""


class Saver:
    """Saves checkpoints of one worker, at most one at a time; all workers call alike.

    Workers write their files at the same time, tell each other when they are done, and rank 0 publishes. In the
    background they do so over a process group of their own, so that the loop's collective operations are not mixed
    with theirs. An error surfaces at the next call.

    Args:
        store: Where checkpoints go.
        worker: This process.
        report: Called on every worker when a checkpoint is published; in the background, from its thread.
        in_background: Write in a thread; otherwise :meth:`save` returns when the checkpoint is published.
    """

    def __init__(self, store: CheckpointStore, worker: Worker, report: Report, *, in_background: bool) -> None:
        self._store = store
        self._worker = worker
        self._report = report
        self._in_background = in_background
        shared = worker.world_size > 1
        self._group = torch.distributed.new_group(backend="gloo") if shared else None
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def save(self, step: int, metrics: Metrics, snapshot: Callable[[Checkpoint], Sequence[Write]]) -> None:
        """Copy the state, and write it once the write before is done.

        Args:
            step: Optimizer steps done.
            metrics: What was measured at that step.
            snapshot: Called on this thread with the checkpoint; returns what writes its files.

        Raises:
            OutputError: This checkpoint, or the one before it, could not be written.
        """
        self.wait()
        try:
            checkpoint = self._store.begin(self._worker, step, metrics)
        except OutputError:
            raise
        except OSError as error:
            raise self._explained(error, step) from error
        writes = snapshot(checkpoint)
        if not self._in_background:
            self._finish(checkpoint, writes)
            self.check()
            return
        self._thread = threading.Thread(target=self._finish, args=(checkpoint, writes), daemon=True, name="saver")
        self._thread.start()

    def check(self) -> None:
        """Raise the error of a write that failed; do not wait for one that runs."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def wait(self) -> None:
        """Wait until what was saved last is published.

        Raises:
            OutputError: It could not be written.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def _finish(self, checkpoint: Checkpoint, writes: Sequence[Write]) -> None:
        try:
            self._agree(self._attempt(lambda: [write() for write in writes], checkpoint.step))
            publish = partial(self._store.publish, checkpoint) if self._worker.rank == 0 else int
            self._agree(self._attempt(publish, checkpoint.step))
            self._report(checkpoint.metrics, checkpoint)
        except BaseException as error:
            self._error = error

    def _attempt(self, write: Write, step: int) -> OutputError | None:
        try:
            write()
        except _WRITE_ERRORS as error:
            return self._explained(error, step)
        return None

    def _agree(self, error: OutputError | None) -> None:
        """Wait for all workers; raise this worker's error, or else that of another."""
        errors: list[OutputError | None] = [error]
        if self._group is not None:
            errors = [None] * self._worker.world_size
            torch.distributed.all_gather_object(errors, error, group=self._group)
        for raised in (error, *errors):
            if raised is not None:
                raise raised

    def _explained(self, error: BaseException, step: int) -> OutputError:
        if isinstance(error, OutputError):
            return error
        place = next(path for path in (self._store.root, *self._store.root.parents) if path.exists())
        free_bytes = shutil.disk_usage(place).free
        return OutputError(
            f"{self._store.root}: the checkpoint of step {step} can't be written ({error}); {free_bytes / 2**20:.0f} MiB "
            "are free there. Checkpoints before it are whole: free some space, or lower train.save_total_limit, and the "
            "same command continues from the newest."
        )
