"""What the loop asks of a strategy, and how one is chosen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from luthier.config.train import TrainConfig
from luthier.errors import ConfigError
from luthier.trainers.batches import Batch
from luthier.trainers.loss import SumLoss


@dataclass(frozen=True)
class Worker:
    """This process's place in the group.

    Attributes:
        rank: From 0.
        world_size: Processes in the group.
        device: Where tensors go.
    """

    rank: int
    world_size: int
    device: torch.device

    def sum(self, *values: float) -> list[float]:
        """Each value summed over all workers, in float64."""
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        if self.world_size > 1:
            torch.distributed.all_reduce(total)
        return [float(value) for value in total.tolist()]

    def barrier(self) -> None:
        """Wait until every worker is here."""
        if self.world_size > 1:
            torch.distributed.barrier()


class Strategy(Protocol):
    """One way to run forward, backward and the optimizer over a group of workers."""

    loss: nn.Module
    """Called with a batch, returns its summed loss; for validation."""

    def forward_backward(self, batch: Batch, num_loss_tokens: float, *, last: bool) -> torch.Tensor:
        """Add one micro-batch's gradient of the token-weighted mean loss.

        Args:
            batch: This worker's micro-batch.
            num_loss_tokens: Loss-bearing tokens of the whole optimizer step over all workers and micro-steps.
            last: Whether this is the step's last micro-batch.

        Returns:
            The micro-batch's summed loss in nats, detached.
        """
        ...

    def step(self) -> float:
        """Clip, update the weights and the learning rate, clear gradients; the gradient's norm before clipping."""
        ...

    def learning_rate(self) -> float:
        """The rate that the next step uses."""
        ...

    def trained_weights(self) -> dict[str, torch.Tensor]:
        """What :func:`weights_to_save` names, whole and on the CPU. All workers call; rank 0's result is complete."""
        ...

    def save_state(self, directory: Path) -> Callable[[], object] | None:
        """Copy what resuming needs besides the step number. All workers call.

        Returns:
            What writes the copy below ``directory``, called later and by another thread, so without collective
            operations; None where it is written already.
        """
        ...

    def load_state(self, directory: Path) -> None:
        """Undo :meth:`save_state`. All workers call."""
        ...


def weights_to_save(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that the artifact holds, by name: those trained beside a frozen base, or a whole model's all.

    Args:
        model: The model that is trained; with frozen layers it is still written whole.
    """
    beside_a_base = hasattr(model, "peft_config")
    return {name: p for name, p in model.named_parameters() if p.requires_grad or not beside_a_base}


def import_strategy(train: TrainConfig) -> None:
    """Import what the strategy's making would import."""
    module = {"ddp": "ddp", "fsdp2": "fsdp2", "deepspeed": "zero_snapshots"}[train.strategy]
    import_module(f"luthier.trainers.strategies.{module}")


def build_strategy(train: TrainConfig, loss: SumLoss, worker: Worker, num_steps: int) -> Strategy:
    """The strategy that the config names.

    Args:
        train: Its optimizer, schedule and strategy settings are used.
        loss: The model.
        worker: This process.
        num_steps: Optimizer steps of the whole run, for the schedule.
    """
    from luthier.trainers.strategies.ddp import Ddp
    from luthier.trainers.strategies.fsdp2 import Fsdp2
    from luthier.trainers.strategies.zero import Zero

    if train.strategy == "auto":
        raise ConfigError("train.strategy: auto is decided by luthier run, train and tune; name a strategy here.")
    builders: dict[str, Callable[[TrainConfig, SumLoss, Worker, int], Strategy]] = {
        "ddp": Ddp,
        "fsdp2": Fsdp2,
        "deepspeed": Zero,
    }
    return builders[train.strategy](train, loss, worker, num_steps)
