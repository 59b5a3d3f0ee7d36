"""One of the runs that share a base: its own rows, optimizer, schedule, counters and validation."""

from __future__ import annotations

import math
import time
from collections import Counter

import torch
from torch import nn

from luthier.errors import TrainingDiverged
from luthier.trainers.batches import Batch
from luthier.trainers.loop import Job, settled
from luthier.trainers.metrics_stream import Metrics, MetricsWriter
from luthier.trainers.objectives import Losses
from luthier.trainers.optimizer import build_optimizer, build_schedule
from luthier.trainers.strategies import Worker
from luthier.trainers.together.adapter import NewAdapter
from luthier.trainers.together.shared_base import Share, SharedBase
from luthier.trainers.validation import Validation


class Member:
    """Does with its share of each round what :func:`luthier.trainers.loop.train_loop` does alone.

    Args:
        job: What to do.
        base: The model that it shares.
        adapter: What it trains.

    Attributes:
        last: What was measured at the optimizer step done last; empty before the first.
    """

    def __init__(self, job: Job, base: SharedBase, adapter: NewAdapter) -> None:
        worker = Worker(0, 1, base.device)
        self.adapter = adapter
        self._num_loss_tokens = 0
        self.last: Metrics = {}
        self._base = base
        self._rows = job.train_rows()
        self._plan = job.plan(self._rows, 1)
        self._train = settled(job, self._plan, worker)
        self._num_steps = self._train.max_steps or self._train.num_train_epochs * self._plan.steps_per_epoch
        self._names = [one.name for one in job.cfg.datasets]
        self._dataset_of = self._rows.datasets() if len(self._names) > 1 else []
        self._parameters = adapter.parameters()
        self._optimizer = build_optimizer(self._parameters, self._train)
        self._schedule = build_schedule(self._optimizer, self._train, self._num_steps)
        objective = job.objective()
        tasks = job.validation_tasks(objective)
        losses = Losses(base.model, objective)
        judge = _Judge(base.under(adapter.pairs, losses))
        size = self._train.per_device_train_batch_size
        self._validation = Validation(tasks, judge, base.model, losses, base.collate, worker, size) if tasks else None
        self._eval_every = self._train.eval_steps or self._plan.steps_per_epoch
        self._writer = MetricsWriter(job.workdir, 0)
        self._step = 0
        self._seen = 0
        self._waiting: list[Batch] = []
        self._sums: Metrics = {}

    @property
    def is_done(self) -> bool:
        """Whether all steps are done."""
        return self._step == self._num_steps

    def next_share(self) -> Share:
        """What it learns from in this round: a micro-batch of the step that it is in, or else of the next."""
        if not self._waiting:
            self._begin()
        return Share(self.adapter.pairs, self._waiting.pop(0), self._num_loss_tokens)

    def end_round(self, loss: torch.Tensor) -> Metrics | None:
        """Take note of a micro-batch's summed loss; at the end of an optimizer step, update the weights.

        Returns:
            What is to be told of the step: of each that ends with a validation, and of the last.

        Raises:
            TrainingDiverged: The loss or the gradient became NaN or infinite.
        """
        self._sums["loss"] += float(loss)
        if self._waiting:
            return None
        self._step += 1
        self.last = metrics = self._update()
        judged = self._step % self._eval_every == 0 or self.is_done
        if judged and self._validation:
            metrics |= self._validation.measure()
        if judged or self._step % self._train.logging_steps == 0:
            self._writer.write(metrics)
        return metrics if judged else None

    def close(self) -> None:
        """Write out what is buffered, and let go of gradients."""
        self._writer.close()
        self._optimizer.zero_grad(set_to_none=True)

    def _begin(self) -> None:
        self._began_s = time.monotonic()
        parts = self._plan.micro_batches(self._step, 0)
        # Others have no wait for a micro-batch that a short step leaves empty.
        batches = [self._base.collate([self._rows[i] for i in part]) for part in parts if part]
        self._num_loss_tokens = sum(batch.num_loss_tokens for batch in batches)
        rows = sum(len(batch.row_ids) for batch in batches)
        self._sums = {"loss": 0.0, "tokens": float(sum(batch.num_tokens for batch in batches)), "rows": float(rows)}
        if self._dataset_of:
            mine = Counter(self._dataset_of[i] for part in parts for i in part)
            self._sums |= {f"rows/{name}": float(mine[name]) for name in self._names}
        self._waiting = [batch.to(self._base.device) for batch in batches]

    def _update(self) -> Metrics:
        """Clip, update the weights and the learning rate, clear gradients; the step's measurements."""
        rate = float(self._optimizer.param_groups[0]["lr"])
        loss = self._sums["loss"] / self._num_loss_tokens
        remedy = "lower train.learning_rate or train.max_grad_norm."
        if not math.isfinite(loss):
            raise TrainingDiverged(f"step {self._step}: the loss is {loss}; {remedy}")
        norm = float(nn.utils.clip_grad_norm_(self._parameters, self._train.max_grad_norm))
        if not math.isfinite(norm):
            raise TrainingDiverged(f"step {self._step}: the gradient's norm is {norm}; {remedy}")
        self._optimizer.step()
        self._schedule.step()
        self._optimizer.zero_grad(set_to_none=True)
        elapsed_s = time.monotonic() - self._began_s
        self._seen += int(self._sums["rows"])
        return self._sums | {
            "loss": loss,
            "grad_norm": norm,
            "learning_rate": rate,
            "loss_tokens": float(self._num_loss_tokens),
            "step": self._step,
            "num_steps": self._num_steps,
            "epoch": self._step / self._plan.steps_per_epoch,
            "rows_seen": self._seen,
            "tokens_per_s": self._sums["tokens"] / elapsed_s,
            "loss_tokens_per_s": self._num_loss_tokens / elapsed_s,
        }


class _Judge:
    """The part of a strategy that validation needs."""

    def __init__(self, loss: nn.Module) -> None:
        self.loss = loss
