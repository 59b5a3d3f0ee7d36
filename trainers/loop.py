"""The training loop, run alike by every worker of a group, or by a lone process."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from luthier.config.run import RunConfig
from luthier.config.train import TrainConfig
from luthier.errors import TrainingDiverged
from luthier.precision import computes_in_bf16
from luthier.trainers.batches import Batch, StepPlan
from luthier.trainers.blocks import Block, Rows
from luthier.trainers.checkpoint import CheckpointStore
from luthier.trainers.earlier import EarlierTask, Start
from luthier.trainers.heap import give_back_freed
from luthier.trainers.identity import run_identity
from luthier.trainers.metrics_stream import Metrics, MetricsWriter
from luthier.trainers.mixture import Mixture
from luthier.trainers.model import build_trainable
from luthier.trainers.objectives import Losses, Objective, build_objective
from luthier.trainers.packing import PackedPlan, Plan
from luthier.trainers.peak_memory import PeakMemory
from luthier.trainers.resuming import DIVIDED, load_weights, resume, seed_dropout, snapshot
from luthier.trainers.sample_log import SampleLog
from luthier.trainers.saving import Report, Saver
from luthier.trainers.speed import speed_up
from luthier.trainers.strategies import Strategy, Worker, build_strategy, import_strategy
from luthier.trainers.task_metrics import Answering, with_perplexity
from luthier.trainers.tokens import ChatTokenizer
from luthier.trainers.validation import Task, Validation


@dataclass(frozen=True)
class Job:
    """All that a worker needs to know.

    Attributes:
        cfg: The run's configuration.
        base_model_dir: The pretrained model.
        train: Tokenised training rows.
        validation: Tokenised validation rows, or None.
        workdir: The run's directory, on storage that all workers see.
        micro_splits: Into how many parts each configured micro-batch is divided, because a whole one did not fit.
        classes: Labels of a classifier, in the order of their indices.
        start: Weights to begin with; None: the base's.
        earlier: What stages before this one have taught, to be validated beside the rest.
    """

    cfg: RunConfig
    base_model_dir: Path
    train: Block
    validation: Block | None
    workdir: Path
    micro_splits: int = 1
    classes: tuple[str, ...] = ()
    start: Start | None = None
    earlier: tuple[EarlierTask, ...] = ()

    @property
    def micro_batch_size(self) -> int:
        """The most rows of a worker's micro-step."""
        return math.ceil(self.cfg.train.per_device_train_batch_size / self.micro_splits)

    def with_smaller_micro_batches(self) -> Job | None:
        """The same steps in micro-batches half as large; None where the config allows none."""
        half = replace(self, micro_splits=self.micro_splits * 2)
        least = self.cfg.train.min_per_device_train_batch_size
        if least is None or half.micro_batch_size < least or half.micro_batch_size == self.micro_batch_size:
            return None
        return half

    def objective(self) -> Objective:
        """What the rows teach."""
        return build_objective(self.cfg.train, self.cfg.data, self.base_model_dir, self.classes)

    def train_rows(self) -> Rows:
        """The rows to learn from."""
        return self.train.read().sample(self.cfg.data.max_train_samples, self.cfg.seed)

    def validation_tasks(self, objective: Objective) -> list[Task]:
        """What the run is validated on; nothing where there is no validation split.

        Args:
            objective: What the rows to learn from teach.
        """
        tasks = []
        if self.validation is not None:
            learns_tokens = self.cfg.train.learns_tokens
            tasks = [
                Task(name, objective, rows.by_length(), learns_tokens)
                for name, rows in self._drawn(self.validation).by_dataset().items()
            ]
        return tasks + [one.task(self.base_model_dir, self._drawn(one.validation)) for one in self.earlier]

    def _drawn(self, validation: Block) -> Rows:
        return validation.read().sample(self.cfg.data.max_eval_samples, self.cfg.seed)

    def plan(self, rows: Rows, world_size: int) -> Plan:
        """Which of the rows go where."""
        train = self.cfg.train
        workers = train.max_workers if train.is_elastic else world_size
        shape = (workers, train.per_device_train_batch_size, train.gradient_accumulation_steps, self.cfg.seed)
        group: dict[str, int] = {"at_work": world_size, "splits": self.micro_splits}
        weights = {one.name: one.weight for one in self.cfg.datasets if one.weight is not None}
        tasks = rows.datasets() if weights else []
        if train.packing:
            return PackedPlan(rows.lengths(), self.cfg.data.max_length, *shape, **group, tasks=tasks, weights=weights)
        lengths_N = torch.tensor(rows.lengths()) if train.group_by_length else None
        mixture = Mixture(tasks, weights, self.cfg.seed) if weights else None
        return StepPlan(len(rows), *shape, lengths_N, **group, mixture=mixture)

    def store(self) -> CheckpointStore:
        """The run's checkpoints."""
        train = self.cfg.train
        begun_with = self.start.digest if self.start else None
        identity = run_identity(self.cfg, self.train, self.validation, begun_with)
        return CheckpointStore(
            self.workdir / "checkpoints", train.save_total_limit, train.metric_for_best_model, identity
        )


def train_loop(job: Job, worker: Worker, report: Report, must_leave: Callable[[], bool] | None = None) -> None:
    """Train from the newest complete checkpoint, or from the start, to the last step.

    Args:
        job: What to do.
        worker: This process's place in the group.
        report: Called on every worker after each checkpoint, with the metrics of that step.
        must_leave: Whether this worker's machine is about to be taken away; the first time that any worker's is, a
            checkpoint is saved at once.

    Raises:
        TrainingDiverged: The loss or the gradient became NaN or infinite.
        OutputError: A checkpoint could not be written.
    """
    torch.manual_seed(job.cfg.seed)
    rows = job.train_rows()
    plan = job.plan(rows, worker.world_size)
    train = settled(job, plan, worker)
    datasets = [one.name for one in job.cfg.datasets]
    dataset_of = rows.datasets() if len(datasets) > 1 else []
    num_steps = train.max_steps or train.num_train_epochs * plan.steps_per_epoch
    objective = job.objective()
    tasks = job.validation_tasks(objective)
    pad_id = objective.tokenizer.pad_id
    import_strategy(train)
    peak = PeakMemory(worker.device)
    model = build_trainable(job.base_model_dir, job.cfg.model, train, objective.classes)
    if job.start is not None:
        load_weights(model, job.start.weights_dir)
    flat = speed_up(model, train, pad_id)
    collate = flat or objective.collate
    losses = Losses(model, objective, *(task.objective for task in tasks if task.is_earlier))
    store = job.store()
    if worker.rank == 0:
        store.take()
    newest = store.agreed_newest(worker)
    build = partial(build_strategy, train, losses, worker, num_steps)
    strategy = resume(newest, model, build, worker, divided=train.strategy in DIVIDED)
    give_back_freed()
    seed_dropout(newest, worker, job.cfg.seed)
    first_step = newest.step if newest else 0
    generated = set(train.eval_metrics) - {"perplexity"}
    as_settled = job.cfg.model_copy(update={"train": train})
    answering = Answering(as_settled, ChatTokenizer(job.base_model_dir), worker) if generated else None
    validation = Validation(tasks, strategy, model, losses, flat, worker, train.per_device_train_batch_size, answering)
    seen = int(newest.metrics["rows_seen"]) if newest else 0
    writer = MetricsWriter(job.workdir, first_step) if worker.rank == 0 else None
    samples = SampleLog(job.workdir, worker, first_step) if train.log_samples else None
    saver = Saver(store, worker, report, in_background=train.async_save)
    eval_every = train.eval_steps or plan.steps_per_epoch
    save_every = train.save_steps or eval_every
    leaving = False
    model.train()
    for step in range(first_step + 1, num_steps + 1):
        began = time.monotonic()
        parts = plan.micro_batches(step - 1, worker.rank)
        batches = [collate([rows[i] for i in part]) for part in parts]
        metrics = _step(strategy, objective, [batch.to(worker.device) for batch in batches], worker, step)
        elapsed_s = time.monotonic() - began
        seen += int(metrics["rows"])
        metrics |= {
            "step": step,
            "num_steps": num_steps,
            "epoch": step / plan.steps_per_epoch,
            "rows_seen": seen,
            "tokens_per_s": metrics["tokens"] / elapsed_s,
            f"{objective.unit}_per_s": metrics[objective.unit] / elapsed_s,
        }
        if dataset_of:
            mine = Counter(dataset_of[i] for part in parts for i in part)
            of_each = worker.sum(*(mine[name] for name in datasets))
            metrics |= {f"rows/{name}": number for name, number in zip(datasets, of_each, strict=True)}
        if samples:
            samples.write(step, batches)
        noticed = not leaving and must_leave is not None and worker.sum(float(must_leave()))[0] > 0
        leaving = leaving or noticed
        judged = step % eval_every == 0 or step == num_steps
        due = step % save_every == 0 or step == num_steps or noticed
        if judged and tasks:
            metrics |= with_perplexity(validation.measure(), train.eval_metrics)
        if writer and (judged or due or step % train.logging_steps == 0):
            writer.write(metrics)
        saver.check()
        if due:
            give_back_freed()
            saver.save(step, metrics, partial(snapshot, strategy, model, worker))
        if noticed:
            saver.wait()
    saver.wait()
    if samples:
        samples.close()
    if writer:
        writer.close()
        peak.write(job.workdir)


def settled(job: Job, plan: Plan, worker: Worker) -> TrainConfig:
    """The settings as they are for the workers that are there.

    ``bf16: auto`` is decided: the same for all workers, by the least able of them. Micro-batches are as the plan's.
    """
    mine = computes_in_bf16(job.cfg.train.bf16, worker.device.type)
    (able,) = worker.sum(float(mine))
    return job.cfg.train.model_copy(
        update={
            "bf16": able == worker.world_size,
            "per_device_train_batch_size": job.micro_batch_size,
            "gradient_accumulation_steps": plan.accumulation,
        }
    )


def _step(strategy: Strategy, objective: Objective, batches: Sequence[Batch], worker: Worker, step: int) -> Metrics:
    """One optimizer step over this worker's micro-batches.

    The loss is its sum / number of loss-bearing tokens (rows, pairs: the objective's unit), both over all workers and
    micro-batches: the mean over tokens, however unevenly the rows' lengths fall.
    """
    rate = strategy.learning_rate()
    tokens, rows, items = worker.sum(
        sum(batch.num_tokens for batch in batches),
        sum(len(batch.row_ids) for batch in batches),
        sum(objective.num_items(batch) for batch in batches),
    )
    total = torch.zeros((), device=worker.device)
    for number, batch in enumerate(batches, start=1):
        total += strategy.forward_backward(batch, items, last=number == len(batches))
    loss, *figures = (value / items for value in worker.sum(float(total), *objective.tally.take()))
    if not math.isfinite(loss):
        raise TrainingDiverged(f"step {step}: the loss is {loss}; lower train.learning_rate or train.max_grad_norm.")
    grad_norm = strategy.step()
    if not math.isfinite(grad_norm):
        raise TrainingDiverged(f"step {step}: the gradient's norm is {grad_norm}; lower train.learning_rate.")
    measured = {"loss": loss, "grad_norm": grad_norm, "learning_rate": rate, "tokens": tokens, "rows": rows}
    measured[objective.unit] = items
    return measured | dict(zip(objective.tally.names, figures, strict=True))
