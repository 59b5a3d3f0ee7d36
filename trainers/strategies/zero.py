"""DeepSpeed ZeRO (Rajbhandari et al. 2020): optimizer state, gradients and weights divided among workers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from luthier.config.train import TrainConfig
from luthier.trainers.batches import Batch
from luthier.trainers.heap import give_back_freed
from luthier.trainers.loss import SumLoss
from luthier.trainers.optimizer import build_optimizer, build_schedule
from luthier.trainers.strategies.base import Worker, weights_to_save
from luthier.trainers.strategies.group import backend_of, join_group
from luthier.trainers.strategies.host_adam import host_adam
from luthier.trainers.strategies.zero_config import offloads_optimizer, zero_config

_TAG = "zero"


def _join(worker: Worker) -> None:
    """Let DeepSpeed use the process group that there is."""
    import deepspeed

    join_group(worker)
    # Only inference uses this operation, and DeepSpeed would need a C++ compiler to build it.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend=backend_of(worker), auto_mpi_discovery=False, verbose=False)


class Zero:
    """A DeepSpeed engine at a ZeRO stage, with or without the host's memory as a store."""

    def __init__(self, train: TrainConfig, loss: SumLoss, worker: Worker, num_steps: int) -> None:
        import deepspeed

        from luthier.trainers.strategies.zero_snapshots import Snapshots

        _join(worker)
        on_gpu = worker.device.type == "cuda"
        settings = zero_config(
            train, hidden_size=_hidden_size(loss.model), num_trained=_num_trained(loss), on_gpu=on_gpu
        )
        stage = settings["zero_optimization"].get("stage", 0)
        self._stage3 = stage == 3
        self._plain = stage == 0 and not train.bf16
        self._worker = worker
        self._scale = worker.world_size * train.gradient_accumulation_steps
        self._model = loss.to(torch.bfloat16) if train.bf16 else loss
        give_back_freed()  # the float32 weights
        ours = build_optimizer(self._model.parameters(), train)
        optimizer = host_adam(ours) if on_gpu and offloads_optimizer(settings) else ours
        schedule = build_schedule(optimizer, train, num_steps)
        self._engine: Any
        self._engine, _, _, self._schedule = deepspeed.initialize(
            model=self._model, optimizer=optimizer, lr_scheduler=schedule, config=settings
        )
        self._snapshots = Snapshots()
        self._engine.checkpoint_engine = self._snapshots
        self.loss: nn.Module = self._engine

    def forward_backward(self, batch: Batch, num_loss_tokens: float, *, last: bool) -> torch.Tensor:
        """See :class:`Strategy`."""
        del last  # the engine counts micro-batches itself
        loss: torch.Tensor = self._engine(batch)
        # The engine divides by micro-steps and averages over workers; undo both, then divide by all tokens.
        self._engine.backward(loss * (self._scale / num_loss_tokens))
        if not self._engine.is_gradient_accumulation_boundary():
            self._engine.step()
        return loss.detach()

    def step(self) -> float:
        """See :class:`Strategy`."""
        norm = self._own_norm() if self._plain else None
        self._engine.step()
        if self._stage3:
            give_back_freed()  # the pieces that weights were gathered in; without it the heap doubles in some steps
        return float(self._engine.get_global_grad_norm() if norm is None else norm)

    def learning_rate(self) -> float:
        """See :class:`Strategy`."""
        return float(self._engine.get_lr()[0])

    def trained_weights(self) -> dict[str, torch.Tensor]:
        """See :class:`Strategy`. At stage 3 each weight is gathered in turn."""
        import deepspeed

        weights = {}
        for name, parameter in weights_to_save(self._model.model).items():
            with deepspeed.zero.GatheredParameters([parameter], enabled=self._stage3):
                if self._worker.rank == 0:
                    weights[name] = parameter.detach().cpu().clone()
        return weights

    def _own_norm(self) -> torch.Tensor:
        """At stage 0 in float32 the engine clips the gradient, but does not tell its norm."""
        return nn.utils.get_total_norm(p.grad for p in self._model.parameters() if p.grad is not None)

    def save_state(self, directory: Path) -> Callable[[], object] | None:
        """See :class:`Strategy`. Every worker writes its own part."""
        self._engine.save_checkpoint(str(directory), tag=_TAG, save_latest=False, exclude_frozen_parameters=True)
        return self._snapshots.take()

    def load_state(self, directory: Path) -> None:
        """See :class:`Strategy`."""
        self._engine.load_checkpoint(str(directory), tag=_TAG, load_module_strict=False)

    def start_at(self, step: int) -> None:
        """Move the schedule on by the steps that are done, where :meth:`load_state` has nothing that fits."""
        for _ in range(step):
            self._schedule.step()


def _num_trained(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _hidden_size(model: nn.Module) -> int:
    config: Any = model.config
    return int(getattr(config.get_text_config(), "hidden_size", 0) or 1024)
