"""Killing parts of a run at a step, and comparing what it came to with a run that was left alone."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors.torch import load_file

from luthier.trainers.metrics_stream import FILE_NAME, Metrics, read_metrics
from luthier.trainers.sample_log import read_samples

EXACT = ("step", "loss", "grad_norm", "learning_rate", "tokens", "loss_tokens", "eval_loss")
"""What of a metrics row must be equal to the last bit; the rest are speeds."""


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes:
        rows: Losses and what belongs to them, by step.
        samples: Row ids by step, worker and micro-batch.
        weights: The newest checkpoint's deployable weights.
    """

    rows: list[Metrics]
    samples: dict[int, list[list[list[str]]]]
    weights: dict[str, torch.Tensor]

    @classmethod
    def of(cls, workdir: Path) -> Outcome:
        newest = max(path.parent for path in workdir.glob("checkpoints/step-*/checkpoint.json"))
        rows = [{key: row[key] for key in EXACT if key in row} for row in read_metrics(workdir / FILE_NAME)]
        weights = {name: w for path in newest.glob("weights/*/*.safetensors") for name, w in load_file(path).items()}
        return cls(rows, read_samples(workdir), weights)


def assert_same(outcome: Outcome, expected: Outcome) -> None:
    """Oracle E: losses, ordered sample ids and weights are equal to the last bit."""
    assert outcome.rows == expected.rows
    assert outcome.samples == expected.samples
    assert outcome.weights.keys() == expected.weights.keys()
    different = [name for name, weight in outcome.weights.items() if not torch.equal(weight, expected.weights[name])]
    assert different == []


def workers(root: psutil.Process | None = None) -> list[psutil.Process]:
    """The Ray Train workers among the descendants of a process, by default of this one."""
    processes = (root or psutil.Process()).children(recursive=True)
    return [process for process in processes if "RayTrainWorker" in " ".join(_command(process))]


def _command(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def last_step(stream: Path) -> int:
    """The newest step of a metrics stream; 0 where there is none."""
    rows = read_metrics(stream)
    return int(rows[-1]["step"]) if rows else 0


@dataclass
class Strike:
    """Something done to a run when it has finished a step.

    Attributes:
        step: When.
        act: What.
        killed_at: When it was done, by the monotonic clock.
        newest_step: The last step whose row was there.
        resumed_from: The step after which the next attempt went on.
        next_step_s: Seconds from the strike to the next attempt's first finished step.
    """

    step: int
    act: Callable[[], object]
    killed_at: float | None = None
    newest_step: int = 0
    resumed_from: int | None = None
    next_step_s: float | None = None


def kill_one() -> None:
    """SIGKILL the worker that was started last."""
    max(workers(), key=lambda process: process.create_time()).send_signal(signal.SIGKILL)


def kill_all() -> None:
    """SIGKILL every worker at once."""
    for process in workers():
        process.send_signal(signal.SIGKILL)


@dataclass
class Watcher:
    """Follows a run's metrics and strikes in turn."""

    path: Path
    strikes: Sequence[Strike]
    done: threading.Event = field(default_factory=threading.Event)
    error: BaseException | None = None

    def run(self) -> None:
        """Follow, and keep what goes wrong for the thread that waits."""
        try:
            self.follow()
        except BaseException as error:
            self.error = error

    def follow(self) -> None:
        for strike in self.strikes:
            if not self._until(lambda strike=strike: last_step(self.path) >= strike.step):  # type: ignore[misc]
                return
            mark = self._mark()
            strike.newest_step = last_step(self.path)
            strike.killed_at = time.monotonic()
            strike.act()
            # A new attempt puts a new file in the old one's place, and appends to it.
            if not self._until(lambda mark=mark: self._mark() != mark):  # type: ignore[misc]
                return
            strike.resumed_from = last_step(self.path)
            self._until(lambda strike=strike: last_step(self.path) > (strike.resumed_from or 0))  # type: ignore[misc]
            strike.next_step_s = time.monotonic() - strike.killed_at

    def _until(self, condition: Callable[[], bool]) -> bool:
        while not self.done.wait(0.005):
            if condition():
                return True
        return False

    def _mark(self) -> int:
        return self.path.stat().st_ino if self.path.exists() else 0


@contextmanager
def striking(workdir: Path, *strikes: Strike) -> Iterator[None]:
    """Strike at a run in ``workdir`` while the block runs; all strikes must have been made by its end."""
    watcher = Watcher(workdir / FILE_NAME, strikes)
    thread = threading.Thread(target=watcher.run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        watcher.done.set()
        thread.join()
    if watcher.error is not None:
        raise watcher.error
    assert [strike.step for strike in strikes if strike.killed_at is None] == []


Settings = dict[str, Any]
