"""torch's FSDP2 (Zhao et al. 2023): weights, gradients and optimizer state divided among workers, block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from luthier.config.train import TrainConfig
from luthier.trainers.batches import Batch
from luthier.trainers.copies import copied
from luthier.trainers.loss import SumLoss
from luthier.trainers.optimizer import build_optimizer, build_schedule
from luthier.trainers.strategies.base import Worker, weights_to_save
from luthier.trainers.strategies.group import join_group


class Fsdp2:
    """``fully_shard`` on every transformer block, and on the rest with the loss.

    Weights are gathered for a block's forward and backward pass and given up after it. With bf16 they are gathered,
    and computed with, in bfloat16; the parts that workers keep, their gradients and the optimizer's state are float32.
    Gradients cross the network at every micro-step, so that no worker ever keeps a whole one.
    """

    def __init__(self, train: TrainConfig, loss: SumLoss, worker: Worker, num_steps: int) -> None:
        join_group(worker)
        self._worker = worker
        self._max_grad_norm = train.max_grad_norm
        _shard(loss, worker, bf16=train.bf16 is True)
        self._saved = weights_to_save(loss.model)
        self._trained = {name: p for name, p in loss.model.named_parameters() if p.requires_grad}
        self._optimizer = build_optimizer(self._trained.values(), train)
        self._schedule = build_schedule(self._optimizer, train, num_steps)
        self.loss: nn.Module = loss

    def forward_backward(self, batch: Batch, num_loss_tokens: float, *, last: bool) -> torch.Tensor:
        """See :class:`Strategy`."""
        del last  # every micro-step's gradient is divided at once
        loss: torch.Tensor = self.loss(batch)
        # FSDP averages over workers; multiplying by their number makes that the sum, divided by all tokens.
        (loss * (self._worker.world_size / num_loss_tokens)).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def step(self) -> float:
        """See :class:`Strategy`."""
        norm = nn.utils.clip_grad_norm_(self._trained.values(), self._max_grad_norm)
        self._optimizer.step()
        self._schedule.step()
        self._optimizer.zero_grad(set_to_none=True)
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)

    def learning_rate(self) -> float:
        """See :class:`Strategy`."""
        return float(self._optimizer.param_groups[0]["lr"])

    def trained_weights(self) -> dict[str, torch.Tensor]:
        """See :class:`Strategy`. Each weight is gathered in turn."""
        weights = {}
        for name, parameter in self._saved.items():
            whole = _sharded(parameter).full_tensor()
            if self._worker.rank == 0:
                weights[name] = whole.detach().cpu().clone()
        return weights

    def save_state(self, directory: Path) -> Callable[[], object] | None:
        """See :class:`Strategy`. Every worker writes its own part."""
        state = self._optimizer.state_dict()
        part = {
            "weights": {name: _part(parameter) for name, parameter in self._trained.items()},
            "moments": {number: _parts(values) for number, values in state["state"].items()},
            "param_groups": copied(state["param_groups"]),
            "schedule": copied(self._schedule.state_dict()),
        }
        return partial(torch.save, part, directory / f"fsdp2-{self._worker.rank}.pt")

    def load_state(self, directory: Path) -> None:
        """See :class:`Strategy`. What another number of workers wrote is divided anew."""
        parts = _read(directory)
        for name, parameter in self._trained.items():
            mine = self._mine([part["weights"][name] for part in parts])
            _sharded(parameter).to_local().detach().copy_(mine)
        parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        moments = {
            number: {key: self._placed([part["moments"][number][key] for part in parts], parameter) for key in values}
            for number, parameter in enumerate(parameters)
            if (values := parts[0]["moments"].get(number)) is not None
        }
        self._optimizer.load_state_dict({"state": moments, "param_groups": parts[0]["param_groups"]})
        self._schedule.load_state_dict(parts[0]["schedule"])

    def _mine(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """This worker's rows of a tensor that was divided along its first dimension, by as many workers or others."""
        if len(parts) == self._worker.world_size:
            return parts[self._worker.rank]
        whole = torch.cat(list(parts))
        chunks = whole.chunk(self._worker.world_size)
        return chunks[self._worker.rank] if self._worker.rank < len(chunks) else whole[:0]

    def _placed(self, parts: Sequence[torch.Tensor], parameter: nn.Parameter) -> torch.Tensor:
        """An optimizer's tensor as its parameter lies: divided, or whole where it is a number such as the step."""
        if parts[0].ndim == 0:
            return parts[0]
        like = _sharded(parameter)
        return DTensor.from_local(
            self._mine(parts).clone().to(self._worker.device),  # the file may go
            like.device_mesh,
            like.placements,
            run_check=False,
            shape=like.shape,
            stride=like.stride(),
        )


def _read(directory: Path) -> list[dict[str, Any]]:
    """Every worker's part, in order of rank; only what is used is really read."""
    files = (directory / f"fsdp2-{rank}.pt" for rank in range(len(list(directory.glob("fsdp2-*.pt")))))
    return [torch.load(file, map_location="cpu", mmap=True, weights_only=True) for file in files]


def _shard(loss: SumLoss, worker: Worker, *, bf16: bool) -> None:
    """Divide the model: its blocks each as one unit, all else as one."""
    mesh = init_device_mesh(worker.device.type, (worker.world_size,))
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if bf16 else MixedPrecisionPolicy()
    for unit in (*_blocks(loss.model), loss):
        _start_equal(unit, worker)
        fully_shard(unit, mesh=mesh, mp_policy=policy)


def _blocks(model: nn.Module) -> Iterator[nn.Module]:
    """The modules that transformers says belong together: a decoder's or an encoder's layers."""
    base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    names = set(getattr(base, "_no_split_modules", None) or ())
    return (module for module in base.modules() if type(module).__name__ in names)


def _start_equal(unit: nn.Module, worker: Worker) -> None:
    """Rank 0's weights for everybody, as DistributedDataParallel does: parts of unlike weights make no model."""
    if worker.world_size == 1:
        return
    for parameter in unit.parameters():
        if not isinstance(parameter, DTensor):
            weight = parameter.data.to(worker.device)
            torch.distributed.broadcast(weight, 0)
            parameter.data.copy_(weight)


def _sharded(parameter: nn.Parameter) -> DTensor:
    assert isinstance(parameter, DTensor), "fully_shard has divided every parameter"
    return parameter


def _part(tensor: torch.Tensor) -> torch.Tensor:
    """What this worker holds of a tensor, in memory of its own: a view would be saved with all that it is a view of."""
    local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return local.detach().cpu().clone()


def _parts(values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: _part(value) for key, value in values.items()}
