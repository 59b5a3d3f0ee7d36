"""The training loop, run alike by every worker of a group, or by a lone process."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from luthier.config.run import RunConfig
from luthier.config.train import TrainConfig
from luthier.errors import TrainingDiverged
from luthier.precision import computes_in_bf16
from luthier.trainers.batches import Batch, StepPlan
from luthier.trainers.blocks import Block, Rows
from luthier.trainers.checkpoint import Checkpoint, CheckpointStore
from luthier.trainers.export import write_weights
from luthier.trainers.identity import run_identity
from luthier.trainers.metrics_stream import Metrics, MetricsWriter
from luthier.trainers.model import build_trainable
from luthier.trainers.objectives import Objective, build_objective
from luthier.trainers.strategies import Strategy, Worker, build_strategy
from luthier.trainers.tokens import Encoded

Report = Callable[[Metrics, Checkpoint], None]


@dataclass(frozen=True)
class Job:
    """All that a worker needs to know.

    Attributes:
        cfg: The run's configuration.
        base_model_dir: The pretrained model.
        train: Tokenised training rows.
        validation: Tokenised validation rows, or None.
        workdir: The run's directory, on storage that all workers see.
        classes: Labels of a classifier, in the order of their indices.
    """

    cfg: RunConfig
    base_model_dir: Path
    train: Block
    validation: Block | None
    workdir: Path
    classes: tuple[str, ...] = ()

    def objective(self) -> Objective:
        """What the rows teach."""
        return build_objective(self.cfg.train, self.cfg.data, self.base_model_dir, self.classes)

    def train_rows(self) -> Rows:
        """The rows to learn from."""
        return self.train.read().sample(self.cfg.data.max_train_samples, self.cfg.seed)

    def validation_rows(self) -> Sequence[Encoded]:
        """The rows to validate on, in an order that needs little padding; none where there is no validation split."""
        if self.validation is None:
            return ()
        return self.validation.read().sample(self.cfg.data.max_eval_samples, self.cfg.seed).by_length()

    def plan(self, rows: Rows, world_size: int) -> StepPlan:
        """Which of the rows go where."""
        train = self.cfg.train
        lengths_N = torch.tensor(rows.lengths()) if train.group_by_length else None
        accumulation = train.gradient_accumulation_steps
        return StepPlan(
            len(rows), world_size, train.per_device_train_batch_size, accumulation, self.cfg.seed, lengths_N
        )

    def store(self) -> CheckpointStore:
        """The run's checkpoints."""
        train = self.cfg.train
        identity = run_identity(self.cfg, self.train, self.validation)
        return CheckpointStore(
            self.workdir / "checkpoints", train.save_total_limit, train.metric_for_best_model, identity
        )


def train_loop(job: Job, worker: Worker, report: Report) -> None:
    """Train from the newest complete checkpoint, or from the start, to the last step.

    Args:
        job: What to do.
        worker: This process's place in the group.
        report: Called on every worker after each checkpoint, with the metrics of that step.

    Raises:
        TrainingDiverged: The loss or the gradient became NaN or infinite.
    """
    train = _settled(job.cfg.train, worker)
    torch.manual_seed(job.cfg.seed)
    rows, validation = job.train_rows(), job.validation_rows()
    plan = job.plan(rows, worker.world_size)
    num_steps = train.max_steps or train.num_train_epochs * plan.steps_per_epoch
    objective = job.objective()
    model = build_trainable(job.base_model_dir, job.cfg.model, train, objective.classes)
    strategy = build_strategy(train, objective.loss(model), worker, num_steps)
    torch.manual_seed(job.cfg.seed + worker.rank)  # all start from equal weights, and drop out different units
    store = job.store()
    first_step = _resume(store, strategy, worker)
    writer = MetricsWriter(job.workdir, first_step) if worker.rank == 0 else None
    save_every = train.eval_steps or plan.steps_per_epoch
    model.train()
    for step in range(first_step + 1, num_steps + 1):
        began = time.monotonic()
        batches = [objective.collate([rows[i] for i in part]) for part in plan.micro_batches(step - 1, worker.rank)]
        metrics = _step(strategy, objective, [batch.to(worker.device) for batch in batches], worker, step)
        elapsed_s = time.monotonic() - began
        metrics |= {
            "step": step,
            "num_steps": num_steps,
            "epoch": step / plan.steps_per_epoch,
            "tokens_per_s": metrics["tokens"] / elapsed_s,
            f"{objective.unit}_per_s": metrics[objective.unit] / elapsed_s,
        }
        due = step % save_every == 0 or step == num_steps
        if due and validation:
            metrics |= _validate(strategy, model, objective, validation, worker, train.per_device_train_batch_size)
        if writer and (due or step % train.logging_steps == 0):
            writer.write(metrics)
        if due:
            report(metrics, _save(store, strategy, model, worker, step, metrics))
    if writer:
        writer.close()


def _settled(train: TrainConfig, worker: Worker) -> TrainConfig:
    """The settings with ``bf16: auto`` decided: the same for all workers, by the least able of them."""
    mine = computes_in_bf16(train.bf16, worker.device.type)
    (able,) = worker.sum(float(mine))
    return train.model_copy(update={"bf16": able == worker.world_size})


def _step(strategy: Strategy, objective: Objective, batches: Sequence[Batch], worker: Worker, step: int) -> Metrics:
    """One optimizer step over this worker's micro-batches.

    The loss is its sum / number of loss-bearing tokens (rows, pairs: the objective's unit), both over all workers and
    micro-batches: the mean over tokens, however unevenly the rows' lengths fall.
    """
    rate = strategy.learning_rate()
    tokens, items = worker.sum(
        sum(batch.num_tokens for batch in batches), sum(objective.num_items(batch) for batch in batches)
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
    measured = {"loss": loss, "grad_norm": grad_norm, "learning_rate": rate, "tokens": tokens, objective.unit: items}
    return measured | dict(zip(objective.tally.names, figures, strict=True))


@torch.no_grad()
def _validate(
    strategy: Strategy,
    model: torch.nn.Module,
    objective: Objective,
    rows: Sequence[Encoded],
    worker: Worker,
    batch_size: int,
) -> Metrics:
    """Token-weighted mean loss over all validation rows, each seen by one worker; and what else it measures."""
    model.eval()
    total, items = 0.0, 0
    # ZeRO-3 gathers weights in every forward pass, so all workers must run equally many.
    per_worker = math.ceil(len(rows) / worker.world_size)
    mine = rows[worker.rank :: worker.world_size]
    for start in range(0, per_worker, batch_size):
        batch = objective.collate(mine[start : start + batch_size]).to(worker.device)
        total += float(strategy.loss(batch))
        items += objective.num_items(batch)
    model.train()
    *sums, all_items = worker.sum(total, *objective.tally.take(), items)
    names = ("loss", *objective.tally.names)
    return {f"eval_{name}": value / all_items for name, value in zip(names, sums, strict=True)}


def _save(
    store: CheckpointStore, strategy: Strategy, model: torch.nn.Module, worker: Worker, step: int, metrics: Metrics
) -> Checkpoint:
    def write(checkpoint: Checkpoint) -> None:
        weights = strategy.trained_weights()
        if worker.rank == 0:
            write_weights(model, weights, checkpoint.weights_dir)
        strategy.save_state(checkpoint.state_dir)
        torch.save(_random_state(worker), checkpoint.state_dir / f"rng-{worker.rank}.pt")

    return store.save(worker, step, metrics, write)


def _resume(store: CheckpointStore, strategy: Strategy, worker: Worker) -> int:
    """Load the newest complete checkpoint; the number of steps that are done."""
    checkpoint = store.newest()
    if checkpoint is None:
        return 0
    strategy.load_state(checkpoint.state_dir)
    rng = checkpoint.state_dir / f"rng-{worker.rank}.pt"
    if rng.exists():
        state = torch.load(rng, weights_only=True)
        torch.set_rng_state(state["cpu"])
        if "cuda" in state:
            torch.cuda.set_rng_state(state["cuda"], worker.device)
    return checkpoint.step


def _random_state(worker: Worker) -> dict[str, torch.Tensor]:
    """The generators that dropout draws from."""
    state = {"cpu": torch.get_rng_state()}
    if worker.device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(worker.device)
    return state
