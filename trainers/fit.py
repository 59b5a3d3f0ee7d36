"""One fine-tuning run on Ray Train, from tokenised data to a verified artifact."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from luthier.config.run import RunConfig
from luthier.config.train import TrainConfig
from luthier.errors import LuthierError, OutOfMemory, ResourceError, TrainingFailed
from luthier.manifest import Manifest
from luthier.redaction import PROCESS
from luthier.secret_refs import enter_worker
from luthier.trainers.artifact import write_artifact
from luthier.trainers.checkpoint import Checkpoint
from luthier.trainers.earlier import EarlierTask, Start
from luthier.trainers.inprocess import make_job, worker_threads
from luthier.trainers.loop import Job, train_loop
from luthier.trainers.metrics_stream import FILE_NAME, Metrics, MetricsTail, read_metrics
from luthier.trainers.remote_errors import unwrap
from luthier.trainers.spares import keep_one, standing_by, start_first, stop_standing_by
from luthier.trainers.strategies import Worker

log = logging.getLogger(__name__)

_ELASTIC_WAIT_S = 5.0
_ELASTIC_WAITS = 100
"""They also count starts that fail, which must end at some time; losing and draining machines takes a few each."""


@dataclass(frozen=True)
class TrainResult:
    """What a run left behind.

    Attributes:
        artifact_dir: Manifest, weights and tokenizer of the best checkpoint.
        manifest: The same manifest, parsed.
        best: The best checkpoint.
        metrics: Every row of the metrics stream.
        job: What was run; its accounts tell what became of the rows.
        stages: The result of each stage by its name, where the run has stages.
    """

    artifact_dir: Path
    manifest: Manifest
    best: Checkpoint
    metrics: tuple[Metrics, ...]
    job: Job
    stages: Mapping[str, TrainResult] = field(default_factory=dict)

    @property
    def best_step(self) -> int:
        """Optimizer step of the best checkpoint."""
        return self.best.step

    def rows(self) -> dict[str, Any]:
        """What became of the training split's rows, and how many were learned from, repeats over epochs included; of a run
        with stages, by stage."""
        if self.stages:
            return {name: result.rows() for name, result in self.stages.items()}
        return {**asdict(self.job.train.account), "seen": int(self.metrics[-1]["rows_seen"])}


def train(
    cfg: RunConfig,
    *,
    base_model_dir: Path,
    workdir: Path,
    on_metrics: Callable[[Metrics], None] | None = None,
    start: Start | None = None,
    earlier: tuple[EarlierTask, ...] = (),
) -> TrainResult:
    """Fine-tune on the running Ray cluster.

    A run in a directory that holds complete checkpoints of the same run (see
    :func:`luthier.trainers.identity.run_identity`) continues from the newest.

    Args:
        cfg: The configuration.
        base_model_dir: The pretrained model, prepared.
        workdir: The run's directory, on storage that all workers see.
        on_metrics: Called with each row of the metrics stream as it appears.
        start: Weights to begin with; None: the base's.
        earlier: Tasks that stages before this one have taught, validated beside this one's.

    Raises:
        TrainingDiverged: The loss became NaN or infinite.
        TrainingFailed: Workers failed more often than ``train.max_failures`` allows, or Ray itself failed.
        ResourceError: The workers were not scheduled within ``train.start_timeout_s``.
        OutOfMemory: A worker ran out of memory, and ``train.min_per_device_train_batch_size`` allows no smaller batch.
        OutputError: A checkpoint could not be written.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    job = make_job(cfg, base_model_dir, workdir.resolve(), start, earlier)
    job.store().newest()  # warns of a damaged checkpoint here, where the user reads it; workers' logs are not shown
    with MetricsTail(job.workdir / FILE_NAME, on_metrics or (lambda row: None)):
        _run_until_it_fits(job)
    best = job.store().best()
    if best is None:
        raise TrainingFailed(f"{workdir}: the run ended without a complete checkpoint.")
    artifact_dir = job.workdir / "artifact"
    manifest = write_artifact(cfg, [job], best, artifact_dir)
    return TrainResult(artifact_dir, manifest, best, tuple(read_metrics(job.workdir / FILE_NAME)), job)


def _run_until_it_fits(job: Job) -> None:
    """Run the workers; where they run out of memory, with smaller micro-batches, as far as the config allows."""
    while True:
        try:
            return _run_workers(job)
        except OutOfMemory as error:
            smaller = job.with_smaller_micro_batches()
            if smaller is None:
                raise
            job = smaller
            log.warning(
                "%s The run goes on with at most %d rows per worker and micro-step; a step learns from the same rows.",
                error,
                job.micro_batch_size,
            )


def _run_workers(job: Job) -> None:
    with standing_by(job.workdir / "checkpoints" / "at-work") as variables:
        _fit(job, {"OMP_NUM_THREADS": str(worker_threads(job.cfg)), **variables})


def _fit(job: Job, variables: dict[str, str]) -> None:
    """Run the workers, with these variables in their environment."""
    train = job.cfg.train
    wait_s, starts = _patience(train)
    # Ray hands these to its controller.
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(wait_s)
    os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = str(train.hang_timeout_s)
    start_first(train.max_workers, train.reserved_per_worker, variables)

    from ray.exceptions import RayError
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer

    from luthier.trainers.faults import EndOnLastingFailures
    from luthier.trainers.spare_helpers import KeepHelpers

    trainer = TorchTrainer(
        _worker_main,
        train_loop_config={"job": job},
        torch_config=TorchConfig(timeout_s=train.hang_timeout_s),
        scaling_config=ScalingConfig(
            num_workers=train.num_workers,
            use_gpu=train.use_gpu,
            resources_per_worker=train.reserved_per_worker,
            elastic_resize_monitor_interval_s=train.elastic_resize_monitor_interval_s,
        ),
        run_config=RunConfig(
            name="checkpoints",  # Ray only takes note of checkpoints that lie in its run directory
            storage_path=str(job.workdir),
            failure_config=FailureConfig(max_failures=train.max_failures, controller_failure_limit=starts),
            callbacks=[EndOnLastingFailures(), *([KeepHelpers()] if train.keeps_spares else [])],
            worker_runtime_env={"env_vars": variables},
        ),
    )
    # Ray's own list of checkpoints names those that our store has deleted since, and Ray would not start over them.
    (job.workdir / "checkpoints" / "checkpoint_manager_snapshot.json").unlink(missing_ok=True)
    try:
        trainer.fit()
    except (TrainingFailedError, RayError) as error:
        raise unwrap(error) or _failed(error, train) from error


def _patience(train: TrainConfig) -> tuple[float, int]:
    """How long to wait for the workers' places, and how many waits may be in vain.

    An elastic run asks for fewer workers after a wait: Ray knows of a lost machine only from its next look at the
    cluster, 20 s apart, and until then asks for as many workers as before.
    """
    if not train.is_elastic:
        return train.start_timeout_s, train.max_failures
    wait_s = min(_ELASTIC_WAIT_S, train.start_timeout_s)
    return wait_s, max(_ELASTIC_WAITS, math.ceil(train.start_timeout_s / wait_s))


@PROCESS.errors()
def _worker_main(config: dict[str, Any]) -> None:
    """What each Ray Train worker runs."""
    import ray.train
    from ray.train import CheckpointUploadMode

    from luthier.trainers.faults import ran_out

    stop_standing_by()
    job: Job = config["job"]
    enter_worker(job.cfg)  # this process had the hook of one that stands by, in place of the session's
    worker = this_worker(job.cfg)

    def report(metrics: Metrics, checkpoint: Checkpoint) -> None:
        # Our own store has written the files and published them, so Ray only takes note of the place.
        ray.train.report(
            dict(metrics),
            checkpoint=ray.train.Checkpoint(str(checkpoint.path)),
            checkpoint_dir_name=checkpoint.path.name,
            checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD,
        )
        if job.cfg.train.keeps_spares:
            keep_one(note_imports=worker.rank == 0)  # from the first checkpoint on there is something to go on from

    try:
        train_loop(job, worker, report, _must_leave)
    except (RuntimeError, MemoryError) as error:
        raise ran_out(error) or error from error


def _must_leave() -> bool:
    """Whether a machine of the group is about to be taken away, as Ray Train has told this worker.

    ``ray.train.get_preemption_info`` tells the same, but asks all workers, through an actor, at every call.
    """
    from ray.train.v2._internal.execution.context import get_train_context

    return get_train_context().preemption_context.preemption_info is not None


def this_worker(cfg: RunConfig) -> Worker:
    """The place in its group of the Ray Train worker that calls, which is given its threads."""
    import ray.train
    import torch
    from ray.train.torch import get_device

    torch.set_num_threads(worker_threads(cfg))
    context = ray.train.get_context()
    os.environ.setdefault("LOCAL_RANK", str(context.get_local_rank()))
    return Worker(context.get_world_rank(), context.get_world_size(), get_device())


def _failed(error: BaseException, train: TrainConfig) -> LuthierError:
    """What to tell of an error that is none of ours: the first worker's, or that of Ray itself."""
    if type(getattr(error, "controller_failure", None)).__name__ == "WorkerGroupStartupTimeoutError":
        return ResourceError(
            f"the cluster did not start {train.min_workers} worker(s) of {train.resources_per_worker} within "
            f"train.start_timeout_s={train.start_timeout_s:g} s; ask for less, wait for others to end, or raise it."
        )
    failures: dict[int, BaseException] = getattr(error, "worker_failures", None) or {}
    first = next(iter(failures.items()), None)
    detail = f"worker {first[0]}: {first[1]}" if first else str(error)
    return TrainingFailed(f"training failed: {detail}")
