"""One trial: a trainers run on the frozen, overridden config, inside the process that Ray Tune gives it."""

from __future__ import annotations

import gc
import os
import queue
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from luthier.config import RunConfig
from luthier.tuning.space import sweep_of, trial_config

# A nested Ray Train run reserves its own CPUs; the process that only watches it reserves next to nothing. It
# can't be zero: Tune wants at least one non-empty bundle.
WATCHER_BUNDLE = {"memory": float(2**20)}
TOKENISER_BUNDLE = {"CPU": 1.0}

LEFTOVERS = ("checkpoints", "artifact")
"""What a trial must not leave behind: the winner is trained again at full length."""

# How long Tune waits for a stopped trial's thread before it gives up the warm process; it reads this in that process.
_THREAD_TIMEOUT = ("TUNE_FUNCTION_THREAD_TIMEOUT_S", "120")

Row = dict[str, float]


class Report(Protocol):
    """Takes the metrics of one validation and, if one was written, its checkpoint."""

    def __call__(self, metrics: Mapping[str, float], checkpoint: Path | None = None, /) -> None:
        """Hand the metrics on; does not return in a trial that was stopped."""


class TrainTrial(Protocol):
    """Trains one config and calls ``report(metrics, checkpoint_dir)`` at each validation."""

    def __call__(self, cfg: RunConfig, *, base_model_dir: Path, workdir: Path, report: Report) -> None:
        """Train to the end, or until ``report`` does not return."""


def train_trial(cfg: RunConfig, *, base_model_dir: Path, workdir: Path, report: Report) -> None:
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

        train_in_process(cfg, base_model_dir=base_model_dir, workdir=workdir, report=report)


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


def run_trial(spec: TrialSpec, params: Mapping[str, Any]) -> None:
    """Train one trial and report the sweep's metric at each validation.

    Args:
        spec: What all trials share.
        params: Dotted path to drawn value.
    """
    from ray import tune

    os.environ.setdefault(*_THREAD_TIMEOUT)
    gc.collect()  # the process may be warm and still hold the last trial's model
    cfg = trial_config(spec.cfg, params)
    metric = sweep_of(spec.cfg).metric
    workdir = spec.workdir / tune.get_context().get_trial_id()
    workdir.mkdir(parents=True, exist_ok=True)

    validated = "eval_loss" if any(dataset.validation for dataset in cfg.datasets) else metric

    def report(metrics: Mapping[str, float], checkpoint: Path | None = None, /) -> None:
        if metric in metrics and validated in metrics:  # a nested run also tells about plain logging steps
            tune.report({key: float(metrics[key]) for key in (metric, "step", "epoch") if key in metrics})

    try:
        spec.train(cfg, base_model_dir=spec.base_model_dir, workdir=workdir, report=report)
    finally:
        remove_leftovers(workdir)


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
