"""Copies of all that a checkpoint holds, and the way back to them: weights, optimizer, schedule, and the generators that dropout draws from."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from luthier.trainers.checkpoint import Checkpoint
from luthier.trainers.export import write_weights
from luthier.trainers.saving import Write
from luthier.trainers.strategies.base import Strategy, Worker

log = logging.getLogger(__name__)

DIVIDED = {"deepspeed"}
"""Strategies whose optimizer state is divided among the workers in parts that fit no other number of them."""


def snapshot(strategy: Strategy, model: nn.Module, worker: Worker, checkpoint: Checkpoint) -> list[Write]:
    """Copies of all that a checkpoint holds, as what writes them."""
    weights = strategy.trained_weights()
    write_state = strategy.save_state(checkpoint.state_dir)
    writes: list[Write | None] = [write_state, dropout_state(checkpoint, worker)]
    if worker.rank == 0:
        writes.append(partial(write_weights, model, weights, checkpoint.weights_dir))
    return [write for write in writes if write is not None]


def resume(
    checkpoint: Checkpoint | None, model: nn.Module, build: Callable[[], Strategy], worker: Worker, *, divided: bool
) -> Strategy:
    """The strategy, in the state of a checkpoint where there is one. All workers call.

    Args:
        checkpoint: Where to continue; None: at the start.
        model: The model that is trained.
        build: Makes the strategy around the model.
        worker: This process.
        divided: Whether the strategy is one of :data:`DIVIDED`. For another number of workers than the checkpoint's,
            weights and place in the data and in the schedule are kept then, and the optimizer's moments start anew.
    """
    if checkpoint is None:
        return build()
    if divided and checkpoint.world_size != worker.world_size:
        _tell_of_loss(checkpoint, worker)
        load_weights(model, checkpoint.weights_dir)
        strategy = build()
        divided_strategy: Any = strategy
        divided_strategy.start_at(checkpoint.step)
        return strategy
    strategy = build()
    strategy.load_state(checkpoint.state_dir)
    return strategy


def seed_dropout(checkpoint: Checkpoint | None, worker: Worker, seed: int) -> None:
    """Set the generators as they were; where this worker saved none, to ones of its own."""
    step = checkpoint.step if checkpoint else 0
    torch.manual_seed(seed + worker.rank + step * worker.world_size)
    path = _random_path(checkpoint, worker) if checkpoint else None
    if path is not None and path.exists():
        state = torch.load(path, weights_only=True)
        torch.set_rng_state(state["cpu"])
        if "cuda" in state:
            torch.cuda.set_rng_state(state["cuda"], worker.device)


def dropout_state(checkpoint: Checkpoint, worker: Worker) -> Write:
    """A copy of the generators, as what writes it."""
    state = {"cpu": torch.get_rng_state()}
    if worker.device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(worker.device)
    return partial(torch.save, state, _random_path(checkpoint, worker))


def _random_path(checkpoint: Checkpoint, worker: Worker) -> Path:
    return checkpoint.state_dir / f"rng-{worker.rank}.pt"


def _tell_of_loss(checkpoint: Checkpoint, worker: Worker) -> None:
    if worker.rank == 0:
        log.warning(
            "%s was written by %d worker(s), and %d are at work now: weights and place in the data are kept, the "
            "optimizer's moments start anew.",
            checkpoint.path,
            checkpoint.world_size,
            worker.world_size,
        )


def load_weights(model: nn.Module, weights_dir: Path) -> None:
    """The deployable weights back into the model that they were taken from."""
    from peft import PeftModel, set_peft_model_state_dict

    if isinstance(model, PeftModel):
        set_peft_model_state_dict(model, load_file(weights_dir / "adapter" / "adapter_model.safetensors"))
        return
    for path in (weights_dir / "model").glob("*.safetensors"):
        model.load_state_dict(load_file(path), strict=False)  # each file holds some of them
