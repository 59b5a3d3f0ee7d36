"""Trials that share one base: an actor trains their adapters together, and each trial waits there for its reports.

The actor reserves what one worker reserves. A trial's own process only forwards what it is told, so it reserves next to
nothing (:data:`luthier.tuning.trial.WATCHER_BUNDLE`), and Tune stops it as any other: by not returning from ``report``.
"""

from __future__ import annotations

import queue
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

from luthier.config import RunConfig
from luthier.errors import LuthierError, TrainingFailed
from luthier.tuning.trial import Report, TrainTrial

_WATCHERS = 64
"""Calls that an actor answers at a time: each trial waits in one."""
_RETRY_S = 1.0
"""Until a trial asks again for a seat: one whose process died keeps its own until it is trained to its end."""


@dataclass(frozen=True)
class Heard:
    """What a trial is told; its process need not import torch for it.

    Attributes:
        metrics: Of a step that ended with a validation, or of the last; None: the trial failed.
        error: Why it failed.
        is_last: Whether there is nothing more to come.
    """

    metrics: dict[str, float] | None
    error: LuthierError | None
    is_last: bool


class AdapterGroup:
    """Rounds of the trials that are in, for as long as there are any; made an actor by :func:`groups_of`.

    Args:
        cfg: The trials' config before any value is drawn.
        base_model_dir: The prepared base model.
        seats: Trials that may be in at a time.
        threads: For torch.
    """

    def __init__(self, cfg: RunConfig, base_model_dir: Path, seats: int, threads: int) -> None:
        from luthier.trainers.together import Together

        self._together = Together(base_model_dir, cfg)
        self._seats = seats
        self._joining = threading.Lock()
        self._threads = threads
        self._told: dict[int, queue.SimpleQueue[Heard]] = {}
        self._left: set[int] = set()
        self._changed = threading.Condition()
        self._broken: LuthierError | None = None
        threading.Thread(target=self._train, daemon=True, name="rounds").start()

    def join(self, cfg: RunConfig, workdir: Path) -> int | None:
        """Take a trial in from the next round on; its number, or None where no seat is free.

        Raises:
            ConfigError: It can't be trained with the others.
            TrainingFailed: The group's training broke off.
        """
        with self._joining:
            if len(self._together.members) >= self._seats:
                return None
            number = self._together.join(cfg, workdir)
        with self._changed:
            self._queue(number)
            self._refuse_if_broken(number)
            self._changed.notify()
        return number

    def num_members(self) -> int:
        """Trials that are in."""
        return len(self._together.members)

    def next_report(self, number: int) -> Heard:
        """Wait for what there is to tell of a trial next."""
        with self._changed:
            waiting = self._queue(number)
        return waiting.get()

    def leave(self, number: int) -> None:
        """Let a trial go, wherever it is; nothing happens if it is gone."""
        self._together.leave(number)
        with self._changed:
            self._told.pop(number, None)
            self._left.add(number)

    def _queue(self, number: int) -> queue.SimpleQueue[Heard]:
        """A trial's reports. Its first may come before the trial knows its number."""
        return self._told.setdefault(number, queue.SimpleQueue())

    def _train(self) -> None:
        import torch

        torch.set_num_threads(self._threads)
        while self._broken is None:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._together.members))
            try:
                told = self._together.round()
            except Exception as error:  # whatever it is, every trial is told
                self._break(error)
                return
            with self._changed:
                for one in told:
                    if one.member not in self._left:
                        self._queue(one.member).put(Heard(one.metrics, one.error, one.is_last))

    def _break(self, error: Exception) -> None:
        last = traceback.format_exception_only(error)[-1].strip()
        with self._changed:
            self._broken = TrainingFailed(f"the trials that share a base broke off together: {last}")
            for number in self._together.members:
                self._refuse_if_broken(number)

    def _refuse_if_broken(self, number: int) -> None:
        if self._broken is not None:
            self._queue(number).put(Heard(None, self._broken, is_last=True))


@contextmanager
def groups_of(cfg: RunConfig, base_model_dir: Path, count: int, seats: int) -> Iterator[list[Any]]:
    """New groups' handles, for the length of a block: what Tune keeps of a sweep would hold them beyond its end.

    Args:
        cfg: The trials' config before any value is drawn; each group reserves its ``train.resources_per_worker``.
        base_model_dir: The prepared base model.
        count: Groups.
        seats: Trials of each at a time.
    """
    import ray

    groups = [_start(cfg, base_model_dir, seats) for _ in range(count)]
    try:
        yield groups
    finally:
        for group in groups:
            ray.kill(group)


def _start(cfg: RunConfig, base_model_dir: Path, seats: int) -> Any:
    import ray

    from luthier.trainers.inprocess import worker_threads

    wanted = dict(cfg.train.resources_per_worker)
    actor: Any = ray.remote(AdapterGroup)
    return actor.options(
        num_cpus=wanted.pop("CPU", 0.0),
        num_gpus=wanted.pop("GPU", 0.0),
        resources=wanted,
        max_concurrency=_WATCHERS,
    ).remote(cfg, base_model_dir, seats, worker_threads(cfg))


def train_in_group(*groups: Any) -> TrainTrial:
    """Training of a trial inside that group which has the fewest at the time, of those with a seat.

    Args:
        groups: From :func:`groups_of`; made with the base model of the trials.
    """

    def train(
        cfg: RunConfig, *, base_model_dir: Path, workdir: Path, report: Report, adopted: Path | None = None
    ) -> None:
        del base_model_dir, adopted  # the groups have the one, and write none of the other
        import ray

        group, number = _seated(groups, cfg, workdir)
        try:
            is_last = False
            while not is_last:
                (heard,) = _answers([group.next_report.remote(number)])
                if heard.error is not None:
                    raise heard.error
                report(heard.metrics, None)
                is_last = heard.is_last
        finally:
            ray.wait([group.leave.remote(number)])  # before the trial's files are removed

    return train


def _seated(groups: Sequence[Any], cfg: RunConfig, workdir: Path) -> tuple[Any, int]:
    """The group that a trial is in from here on, and its number there."""
    while True:
        sizes = _answers([group.num_members.remote() for group in groups])
        for _, group in sorted(zip(sizes, groups, strict=True), key=itemgetter(0)):
            (number,) = _answers([group.join.remote(cfg, workdir)])
            if number is not None:
                return group, number
        time.sleep(_RETRY_S)


def _answers(calls: list[Any]) -> list[Any]:
    """What calls of an actor return; an error of ours as it was raised there."""
    import ray
    from ray.exceptions import RayError

    from luthier.trainers.remote_errors import unwrap

    try:
        answers: list[Any] = ray.get(calls)
    except RayError as error:
        raise unwrap(error) or error from None
    return answers
