"""Training with one worker inside the process that calls, for sweeps whose trials are actors already."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from luthier.config.run import RunConfig
from luthier.trainers.blocks import prepare_blocks
from luthier.trainers.checkpoint import Checkpoint
from luthier.trainers.earlier import EarlierTask, Start
from luthier.trainers.files import classes_of
from luthier.trainers.loop import Job, train_loop
from luthier.trainers.metrics_stream import FILE_NAME, Metrics, read_metrics
from luthier.trainers.strategies import Worker


def make_job(
    cfg: RunConfig,
    base_model_dir: Path,
    workdir: Path,
    start: Start | None = None,
    earlier: tuple[EarlierTask, ...] = (),
) -> Job:
    """Tokenise what training needs, or find it in the cache. The test split is not touched.

    Args:
        cfg: The configuration.
        base_model_dir: The pretrained model.
        workdir: Where checkpoints and metrics go.
        start: Weights to begin with; None: the base's.
        earlier: Tasks that stages before this one have taught.
    """
    blocks = prepare_blocks(cfg.datasets, cfg.data, base_model_dir, ("train", "validation"), cfg.train)
    classes = classes_of(cfg.datasets) if cfg.train.objective == "classification" else ()
    validation = blocks.get("validation")
    return Job(cfg, base_model_dir, blocks["train"], validation, workdir, classes=classes, start=start, earlier=earlier)


def train_in_process(
    cfg: RunConfig,
    *,
    base_model_dir: Path,
    workdir: Path,
    report: Callable[[Metrics, Path | None], None],
    adopted: Path | None = None,
) -> None:
    """Train here, with a world of one.

    Args:
        cfg: The configuration; ``train.num_workers`` is taken as 1, ``train.async_save`` as false.
        base_model_dir: The pretrained model.
        workdir: Where checkpoints and metrics go.
        report: Called after each validation with the metrics and the checkpoint's directory; where training goes on from a
            checkpoint, first with what was validated until then.
        adopted: A checkpoint to go on from that another run wrote; that of a run which differs in its learning rate, weight
            decay or clipping only.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(worker_threads(cfg))
    worker = Worker(0, 1, torch.device("cuda") if cfg.train.use_gpu else torch.device("cpu"))

    def forward(metrics: Metrics, checkpoint: Checkpoint) -> None:
        report(metrics, checkpoint.path)

    # A sweep's report ends a trial by an exit from within, which only the trial's own thread may take.
    here = cfg.model_copy(update={"train": cfg.train.model_copy(update={"async_save": False})})
    job = make_job(here, base_model_dir, workdir)
    store = job.store()
    if adopted is not None:
        if store.adopt(adopted):
            mine = store.complete()[-1]
            report(mine.metrics, mine.path)
    elif newest := store.newest():
        _report_again(workdir, newest, report)
    train_loop(job, worker, forward)


def _report_again(workdir: Path, newest: Checkpoint, report: Callable[[Metrics, Path | None], None]) -> None:
    """What was validated up to the checkpoint that training goes on from; whoever was to be told may have missed it."""
    for row in read_metrics(workdir / FILE_NAME):
        if row.keys() >= newest.metrics.keys() and row["step"] <= newest.step:
            report(row, newest.path if row["step"] == newest.step else None)


def worker_threads(cfg: RunConfig) -> int:
    """Threads for torch: the CPUs that the worker reserves."""
    return max(1, int(cfg.train.resources_per_worker.get("CPU", 1.0)))
