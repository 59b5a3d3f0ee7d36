"""One trial: a trainers run on the frozen, overridden config, inside the process that Ray Tune gives it."""

from __future__ import annotations

import gc
import json
import os
import queue
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from luthier.config import RunConfig
from luthier.digests import atomic_write_text
from luthier.redaction import PROCESS
from luthier.tuning.space import sweep_of, trial_config

# A nested Ray Train run reserves its own CPUs; the process that only watches it reserves next to nothing. It
# can't be zero: Tune wants at least one non-empty bundle.
WATCHER_BUNDLE = {"memory": float(2**20)}
TOKENISER_BUNDLE = {"CPU": 1.0}

LEFTOVERS = ("checkpoints", "artifact")
"""What a trial must not leave behind: the winner is trained again at full length."""

# How long Tune waits for a stopped trial's thread before it gives up the warm process; it reads this in that process.
_THREAD_TIMEOUT = ("TUNE_FUNCTION_THREAD_TIMEOUT_S", "120")

NUMBER = "trial"
"""Key of a trial's number among its values; no config path is called so."""

Row = dict[str, float]


def trial_name(number: int) -> str:
    """What a trial is called in the leaderboard, and its directory."""
    return f"trial-{number:03d}"


class Report(Protocol):
    """Takes the metrics of one validation and, if one was written, its checkpoint."""

    def __call__(self, metrics: Mapping[str, float], checkpoint: Path | None = None, /) -> None:
        """Hand the metrics on; does not return in a trial that was stopped."""


class TrainTrial(Protocol):
    """Trains one config and calls ``report(metrics, checkpoint_dir)`` at each validation."""

    def __call__(
        self, cfg: RunConfig, *, base_model_dir: Path, workdir: Path, report: Report, adopted: Path | None = None
    ) -> None:
        """Train to the end, or until ``report`` does not return; from the newest checkpoint in ``workdir``, if any.

        ``adopted`` is a checkpoint of another trial to go on from.
        """


def train_trial(
    cfg: RunConfig, *, base_model_dir: Path, workdir: Path, report: Report, adopted: Path | None = None
) -> None:
    """Train in this very process; with several workers, in a nested Ray Train worker group.

    Nesting costs seconds and a second set of processes per trial, so a single worker does without it.
    """
    if cfg.train.max_workers > 1:
        from luthier.trainers.fit import train

        def work(on_row: Callable[[Row], None]) -> None:
            train(cfg, base_model_dir=base_model_dir, workdir=workdir, on_metrics=on_row)

        relay(work, report)
    else:
        from luthier.trainers.inprocess import train_in_process

        train_in_process(cfg, base_model_dir=base_model_dir, workdir=workdir, report=report, adopted=adopted)


def relay(work: Callable[[Callable[[Row], None]], None], report: Report) -> None:
    """Do work that waits for other processes, and report its rows from the thread that Tune called.

    Tune stops a trial by an exit from within ``report``. It must end the trial's own thread; the work's ends with the
    process, and with the process end the workers that it owns.

    Args:
        work: Called in another thread with what takes its rows.
        report: Takes them here.
    """
    rows: queue.SimpleQueue[Row | BaseException | None] = queue.SimpleQueue()

    def run() -> None:
        try:
            work(rows.put)
            rows.put(None)
        except BaseException as error:  # whatever it is, it is raised where Tune sees it
            rows.put(error)

    threading.Thread(target=run, daemon=True, name="trial-work").start()
    while (row := rows.get()) is not None:
        if isinstance(row, BaseException):
            raise row
        report(row)


@dataclass(frozen=True)
class TrialSpec:
    """What every trial of a sweep shares; pickled once into the trial's processes.

    Attributes:
        cfg: The run's config, with its ``tune`` section.
        base_model_dir: The prepared base model.
        workdir: Directory under which each trial has its own.
        train: How a trial is trained.
    """

    cfg: RunConfig
    base_model_dir: Path
    workdir: Path
    train: TrainTrial = train_trial


def make_trainable(spec: TrialSpec) -> Callable[[dict[str, Any]], None]:
    """The function that Ray Tune calls once per trial with the drawn values."""

    def trainable(config: dict[str, Any]) -> None:
        run_trial(spec, config)

    return trainable


@PROCESS.errors()
def run_trial(spec: TrialSpec, params: Mapping[str, Any]) -> None:
    """Train one trial and report the sweep's metrics at each validation.

    Args:
        spec: What all trials share.
        params: Dotted path to drawn value, and the trial's number.
    """
    from ray import tune as ray_tune

    os.environ.setdefault(*_THREAD_TIMEOUT)
    gc.collect()  # the process may be warm and still hold the last trial's model
    values = dict(params)
    workdir = spec.workdir / trial_name(values.pop(NUMBER))
    cfg = trial_config(spec.cfg, values)
    tune = sweep_of(spec.cfg)
    workdir.mkdir(parents=True, exist_ok=True)
    validations = _Validations(workdir / "validations.json")
    handed_on = ray_tune.get_checkpoint() is not None
    validated = "eval_loss" if any(dataset.validation for dataset in cfg.datasets) else tune.metric

    def report(metrics: Mapping[str, float], checkpoint: Path | None = None, /) -> None:
        if tune.metric not in metrics or validated not in metrics:  # a nested run also tells about plain logging steps
            return
        if not handed_on and validations.has_passed(int(metrics.get("step", 0))):
            return
        told = {key: float(metrics[key]) for key in (*tune.metrics, "step", "epoch") if key in metrics}
        told["validation"] = validations.count(int(metrics.get("step", 0)))
        weights = ray_tune.Checkpoint.from_directory(str(checkpoint)) if checkpoint and tune.hands_on else None
        ray_tune.report(told, checkpoint=weights)

    try:
        with _handed_on() as adopted:
            spec.train(
                cfg,
                base_model_dir=spec.base_model_dir,
                workdir=workdir,
                report=report,
                **({} if adopted is None else {"adopted": adopted}),
            )
    except Exception:
        raise  # its checkpoints are there for when it is tried again
    except BaseException:  # Tune ends a trial that it stops by an exit
        remove_leftovers(workdir)
        raise
    remove_leftovers(workdir)


@contextmanager
def _handed_on() -> Iterator[Path | None]:
    """The checkpoint that Tune wants the trial to go on from: another trial's, or its own from before a pause."""
    from ray import tune as ray_tune

    checkpoint = ray_tune.get_checkpoint()
    if checkpoint is None:
        yield None
        return
    with checkpoint.as_directory() as directory:
        yield Path(directory)


class _Validations:
    """The steps at which a trial was validated, over all its attempts.

    Args:
        path: Where they are kept.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._steps: list[int] = json.loads(path.read_text()) if path.exists() else []

    def has_passed(self, step: int) -> bool:
        """Whether a later one was reported, so that the driver has noted this one."""
        return bool(self._steps) and step < self._steps[-1]

    def count(self, step: int) -> int:
        """Which validation it is, from 1; a trial that goes on from an earlier step takes back what came later."""
        self._steps = [one for one in self._steps if one < step] if step else self._steps
        self._steps.append(step)
        atomic_write_text(self._path, json.dumps(self._steps))
        return len(self._steps)


def remove_leftovers(workdir: Path) -> None:
    """Leave a trial's metrics only."""
    for leftover in LEFTOVERS:
        shutil.rmtree(workdir / leftover, ignore_errors=True)


def trial_bundles(cfg: RunConfig, *, tokenises: bool) -> list[dict[str, float]]:
    """What Tune reserves for one trial: its single worker, or the watcher of a nested Ray Train run.

    Args:
        cfg: The trial's config.
        tokenises: Whether the trial may have to tokenise, which Ray Data does in a process of its own.
    """
    worker = dict(WATCHER_BUNDLE) if cfg.train.max_workers > 1 else dict(cfg.train.resources_per_worker)
    return [worker, dict(TOKENISER_BUNDLE)] if tokenises else [worker]


def trial_demand(cfg: RunConfig, *, tokenises: bool) -> dict[str, float]:
    """All that one trial uses, whoever reserves it."""
    demand = {key: amount * cfg.train.max_workers for key, amount in cfg.train.resources_per_worker.items()}
    if tokenises:
        for key, amount in TOKENISER_BUNDLE.items():
            demand[key] = demand.get(key, 0.0) + amount
    return demand
