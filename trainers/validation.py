"""Validation during training: of what is being learnt, task by task, and of what was learnt before."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from luthier.trainers.metrics_stream import Metrics
from luthier.trainers.objectives import Losses, Objective
from luthier.trainers.speed import Collate
from luthier.trainers.strategies import Worker
from luthier.trainers.task_metrics import Answering
from luthier.trainers.tokens import Encoded


@dataclass(frozen=True)
class Task:
    """Validation rows under one name.

    Attributes:
        name: The dataset's.
        objective: How they are judged.
        rows: In an order that needs little padding.
        learns_tokens: Whether they are judged token by token, and so may lie flat.
        is_earlier: Whether an earlier stage taught it, so that it has no part in ``eval_loss``.
    """

    name: str
    objective: Objective
    rows: Sequence[Encoded]
    learns_tokens: bool
    is_earlier: bool = False


class Judge(Protocol):
    """The part of a strategy that validation needs."""

    @property
    def loss(self) -> nn.Module:
        """Called with a batch, returns its summed loss."""
        ...


class Validation:
    """Measures all tasks of a run. All workers call alike.

    Args:
        tasks: What to measure.
        strategy: Runs the forward pass.
        model: What is trained; put back into training mode afterwards.
        losses: The strategy's loss, told which objective is meant.
        flat: Lays rows out without padding, where the model allows it.
        worker: This process.
        batch_size: Rows at a time.
        answering: Answers the rows and measures that; None: no task metrics were asked for.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        strategy: Judge,
        model: nn.Module,
        losses: Losses,
        flat: Collate | None,
        worker: Worker,
        batch_size: int,
        answering: Answering | None = None,
    ) -> None:
        self._answering = answering
        self._tasks = tasks
        self._strategy = strategy
        self._model = model
        self._losses = losses
        self._flat = flat
        self._worker = worker
        self._batch_size = batch_size
        self._named = len(tasks) > 1

    @torch.no_grad()
    def measure(self) -> Metrics:
        """``eval_loss``, the mean over all tokens (rows, pairs) of the tasks being learnt, and what else the objective
        measures, under ``eval_``; the same of each task, where there are several, with its name behind a slash."""
        self._model.eval()
        found: Metrics = {}
        totals: dict[str, float] = {}
        items = 0.0
        for task in self._tasks:
            sums, task_items = self._sums(task)
            if self._named:
                found |= {f"eval_{name}/{task.name}": value / task_items for name, value in sums.items()}
            if not task.is_earlier:
                totals = {name: totals.get(name, 0.0) + value for name, value in sums.items()}
                items += task_items
        if self._answering is not None:
            rows = [row for task in self._tasks if not task.is_earlier for row in task.rows]
            answered = self._answering.measure(self._model, rows)
            found |= {f"eval_{name}": value for name, value in answered.items()}
        self._model.train()
        return {f"eval_{name}": value / items for name, value in totals.items()} | found

    def _sums(self, task: Task) -> tuple[dict[str, float], float]:
        """A task's summed loss and figures over all workers, each row seen by one of them, and what they are over."""
        objective = task.objective
        collate = self._flat if self._flat is not None and task.learns_tokens else objective.collate
        total, items = 0.0, 0
        # ZeRO-3 gathers weights in every forward pass, so all workers must run equally many.
        per_worker = math.ceil(len(task.rows) / self._worker.world_size)
        mine = task.rows[self._worker.rank :: self._worker.world_size]
        with self._losses.use(objective):
            for start in range(0, per_worker, self._batch_size):
                batch = collate(mine[start : start + self._batch_size]).to(self._worker.device)
                total += float(self._strategy.loss(batch))
                items += objective.num_items(batch)
        *sums, all_items = self._worker.sum(total, *objective.tally.take(), items)
        return dict(zip(("loss", *objective.tally.names), sums, strict=True)), all_items
