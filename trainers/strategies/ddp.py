"""Data parallelism: every worker holds the whole model, gradients are averaged."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from luthier.config.train import TrainConfig
from luthier.trainers.batches import Batch
from luthier.trainers.copies import copied
from luthier.trainers.loss import SumLoss
from luthier.trainers.optimizer import build_optimizer, build_schedule, settle_rates
from luthier.trainers.strategies.base import Worker, weights_to_save


class Ddp:
    """torch's DistributedDataParallel; with one worker, the bare model."""

    def __init__(self, train: TrainConfig, loss: SumLoss, worker: Worker, num_steps: int) -> None:
        self._model = loss.to(worker.device)
        self._worker = worker
        self._settings = train
        self._max_grad_norm = train.max_grad_norm
        self._autocast = torch.autocast(worker.device.type, dtype=torch.bfloat16, enabled=train.bf16 is True)
        self._trained = {name: p for name, p in loss.model.named_parameters() if p.requires_grad}
        self._optimizer = build_optimizer(self._trained.values(), train)
        self._schedule = build_schedule(self._optimizer, train, num_steps)
        self._ddp = DistributedDataParallel(self._model) if worker.world_size > 1 else None
        self.loss: nn.Module = _Autocast(self._model, self._autocast)

    def forward_backward(self, batch: Batch, num_loss_tokens: float, *, last: bool) -> torch.Tensor:
        """See :class:`Strategy`. Gradients cross the network once a step, with the last micro-batch."""
        alone = self._ddp is None
        with nullcontext() if alone or last else self._ddp.no_sync():  # type: ignore[union-attr]
            with self._autocast:
                loss: torch.Tensor = (self._ddp or self._model)(batch)
            # DDP averages over workers; multiplying by their number makes that the sum, divided by all tokens.
            (loss * (self._worker.world_size / num_loss_tokens)).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def step(self) -> float:
        """See :class:`Strategy`."""
        norm = nn.utils.clip_grad_norm_(self._trained.values(), self._max_grad_norm)
        self._optimizer.step()
        self._schedule.step()
        self._optimizer.zero_grad(set_to_none=True)
        return float(norm)

    def learning_rate(self) -> float:
        """See :class:`Strategy`."""
        return float(self._optimizer.param_groups[0]["lr"])

    def trained_weights(self) -> dict[str, torch.Tensor]:
        """See :class:`Strategy`."""
        return dict(copied(weights_to_save(self._model.model))) if self._worker.rank == 0 else {}

    def save_state(self, directory: Path) -> Callable[[], object] | None:
        """See :class:`Strategy`. Every worker has the same state, so rank 0 writes it."""
        if self._worker.rank:
            return None
        weights = copied(self._trained)
        state = copied({"optimizer": self._optimizer.state_dict(), "schedule": self._schedule.state_dict()})

        def write() -> None:
            save_file(weights, directory / "trained.safetensors")
            torch.save(state, directory / "optimizer.pt")

        return write

    def load_state(self, directory: Path) -> None:
        """See :class:`Strategy`."""
        for name, weight in load_file(directory / "trained.safetensors").items():
            self._trained[name].data.copy_(weight)
        state = torch.load(directory / "optimizer.pt", map_location=self._worker.device, weights_only=True)
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        settle_rates(self._optimizer, self._schedule, self._settings)


class _Autocast(nn.Module):
    """A model that always runs under the given autocast."""

    def __init__(self, model: nn.Module, autocast: torch.autocast) -> None:
        super().__init__()
        self.model = model
        self.autocast = autocast

    def forward(self, batch: Batch) -> torch.Tensor:
        with self.autocast:
            loss: torch.Tensor = self.model(batch)
        return loss
