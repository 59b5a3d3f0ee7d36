"""One trial: a trainers run on the frozen, overridden config, inside the process that Ray Tune gives it."""

from __future__ import annotations

import gc
import shutil
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
    if cfg.train.num_workers > 1:
        from luthier.trainers.fit import train

        train(cfg, base_model_dir=base_model_dir, workdir=workdir, on_metrics=report)
    else:
        from luthier.trainers.inprocess import train_in_process

        train_in_process(cfg, base_model_dir=base_model_dir, workdir=workdir, report=report)


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
        # The winner is trained again at full length, so a trial leaves its metrics only.
        for leftover in ("checkpoints", "artifact"):
            shutil.rmtree(workdir / leftover, ignore_errors=True)


def trial_bundles(cfg: RunConfig, *, tokenises: bool) -> list[dict[str, float]]:
    """What Tune reserves for one trial: its single worker, or the watcher of a nested Ray Train run.

    Args:
        cfg: The trial's config.
        tokenises: Whether the trial may have to tokenise, which Ray Data does in a process of its own.
    """
    worker = dict(WATCHER_BUNDLE) if cfg.train.num_workers > 1 else dict(cfg.train.resources_per_worker)
    return [worker, dict(TOKENISER_BUNDLE)] if tokenises else [worker]


def trial_demand(cfg: RunConfig, *, tokenises: bool) -> dict[str, float]:
    """All that one trial uses, whoever reserves it."""
    demand = {key: amount * cfg.train.num_workers for key, amount in cfg.train.resources_per_worker.items()}
    if tokenises:
        for key, amount in TOKENISER_BUNDLE.items():
            demand[key] = demand.get(key, 0.0) + amount
    return demand
