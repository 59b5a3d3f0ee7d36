"""The most memory that one worker of a run holds, from the shapes of the weights alone; docs/plan.md has the parts."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from luthier.cluster.planning.activations import BF16_BYTES, FP32_BYTES, activation_bytes, compute_bytes, logit_bytes
from luthier.cluster.planning.microbatch import MicroBatch
from luthier.cluster.planning.shapes import Shapes
from luthier.cluster.planning.states import Sizes, State, sizes, state_of
from luthier.config.train import TrainConfig

RUNTIME_BYTES = 60 * 2**20
"""What the first step adds to a process on a CPU, whatever the model: code pages of libraries (25 MiB), kernels that are
compiled (20 MiB), pages that are in part free. Measured on SmolLM2-135M."""

KERNEL_BYTES = 4 * 2**20 // 10
"""oneDNN, which multiplies in bfloat16 on a CPU, keeps a kernel for every product and number of tokens that it has seen.
Measured on SmolLM2-135M: with each step of another size the resident size after ``malloc_trim`` grew by 15.5 MiB in LoRA
and 11 MiB in full fine-tuning, and stopped growing after 406 MiB."""

KERNELS = {"lora": 38, "full": 27}
"""For every number of tokens, by these figures."""

KEPT_KERNELS = 1024
"""oneDNN's documentation, "Primitive Cache"."""

ARENA_BYTES = 64 * 2**20
"""A thread's heaps are no larger in glibc (``HEAP_MAX_SIZE``), so larger blocks are mapped and unmapped one by one."""

FILE_BYTES = 2
"""Of a number in a weight file: published models are in 16 bits."""

Phase = Literal["loading", "a step", "saving"]


class MemoryEstimate(BaseModel):
    """Bytes of one worker's device, and what is kept in the host's memory instead."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    logits_bytes: int
    gathered_bytes: int
    """Divided weights that are whole for a while."""

    buffers_bytes: int
    """Copies made to sum gradients over workers and for the optimizer's step."""

    checkpoint_bytes: int
    """Copies of what a checkpoint holds, while they are written; on a GPU they are the host's."""

    loading_bytes: int
    """The most until the first step."""

    runtime_bytes: int
    host_bytes: int
    """On a GPU, what the worker's process needs of the host: the model while it loads, or copies and what is offloaded."""

    total_bytes: int
    """The peak; not all parts are there at once."""

    peak_in: Phase
    """When it is reached."""


def estimate(
    shapes: Shapes,
    train: TrainConfig,
    batch: MicroBatch,
    *,
    num_steps: int | None = None,
    saves_beside_steps: bool = False,
) -> MemoryEstimate:
    """Memory of one worker: the first, which writes checkpoints.

    Args:
        shapes: The weights.
        train: Method, precision, strategy and number of workers.
        batch: The largest micro-batch.
        num_steps: Optimizer steps; None: many.
        saves_beside_steps: Whether steps follow a checkpoint while it is still being written.
    """
    of, row = sizes(shapes, train), train.strategy_row
    state = state_of(row, of)
    stage_host = 0
    if row.endswith("_offload") and train.use_gpu:  # on a CPU the device's memory is the host's
        state, stage_host = _offloaded(state, of, whole=row.startswith("z3"))
    whole_logits = zero_stage(row) == 3 or any("head" in name for name in train.lora_modules_to_save)
    activations = activation_bytes(shapes, train, batch)
    logits = logit_bytes(shapes, train, batch, whole=whole_logits)
    gives_back = train.use_gpu or of.compute * of.trained > ARENA_BYTES
    buffers = _buffers(state, gives_back=gives_back)
    phases = _phases(
        state, train, (activations, logits, buffers), gives_back=gives_back, saves_beside_steps=saves_beside_steps
    )
    loading, checkpoint = _loading(state, train, of), state.checkpoint
    phases["loading"] = state.building if train.use_gpu else max(loading, state.building)
    runtime = _runtime_bytes(train, num_steps)
    peak_in = max(phases, key=phases.__getitem__)
    return MemoryEstimate(
        weights_bytes=state.weights,
        gradients_bytes=state.gradients,
        optimizer_bytes=state.optimizer,
        activations_bytes=activations,
        logits_bytes=logits,
        gathered_bytes=state.gathered,
        buffers_bytes=buffers,
        checkpoint_bytes=0 if train.use_gpu else checkpoint,
        loading_bytes=phases["loading"],
        runtime_bytes=runtime,
        host_bytes=max(loading, checkpoint + stage_host) if train.use_gpu else 0,
        total_bytes=phases[peak_in] + runtime,
        peak_in=peak_in,
    )


def _runtime_bytes(train: TrainConfig, num_steps: int | None) -> int:
    if train.use_gpu:  # a context there is not torch's to count
        return 0
    if compute_bytes(train) != BF16_BYTES:
        return RUNTIME_BYTES
    kernels = KEPT_KERNELS
    if num_steps is not None:
        kernels = min(kernels, num_steps * train.gradient_accumulation_steps * KERNELS[train.method])
    return RUNTIME_BYTES + kernels * KERNEL_BYTES


def zero_stage(row: str) -> int:
    """The ZeRO stage whose parts a strategy divides; FSDP2 divides what stage 3 does (Zhao et al. 2023)."""
    return {"ddp": 0, "fsdp2": 3}[row] if row in ("ddp", "fsdp2") else int(row[1])


def _phases(
    state: State, train: TrainConfig, parts: tuple[int, int, int], *, gives_back: bool, saves_beside_steps: bool
) -> dict[Phase, int]:
    """Bytes at the peak of a step and while a checkpoint is written.

    torch's allocator on a GPU gives what one part of a step has freed to the next, so the larger part counts. On a CPU
    the C library keeps what is freed (``luthier/cluster/environment.py``) until it is told to give it back, which happens
    before a checkpoint: small pieces, such as activations and an adapter's buffers, add up. Pieces larger than the heaps
    of Ray's thread are given back at once.
    """
    activations, logits, buffers = parts
    held = state.weights + state.optimizer + state.gathered
    kept = state.gradients if train.gradient_accumulation_steps > 1 else 0
    if train.use_gpu:
        return {"a step": held + max(activations + logits + kept, state.gradients + buffers)}
    if gives_back:
        step = held + activations + max(logits + kept, state.gradients + buffers)
    else:
        step = held + activations + logits + state.gradients + buffers
    saving = (step if saves_beside_steps else held - state.gathered) + state.checkpoint
    return {"a step": step, "saving": saving}


def _buffers(state: State, *, gives_back: bool) -> int:
    copies = (*state.reducing, *state.stepping)
    return max(copies, default=0) if gives_back else sum(copies)


def _offloaded(state: State, of: Sizes, *, whole: bool) -> tuple[State, int]:
    """The state without what the host keeps, and how much that is: moments and float32 weights, at stage 3 all weights."""
    masters = FP32_BYTES * of.trained // of.workers
    weights = 0 if whole else state.weights - masters
    host = state.optimizer + state.weights - weights
    moved = {"weights": weights, "optimizer": 0, "stepping": ()}
    return State(**{**state.__dict__, **moved}), host


def _loading(state: State, train: TrainConfig, of: Sizes) -> int:
    """The model in the type that it is loaded in, and the file's pages where this is another."""
    width = FP32_BYTES if train.method == "full" else compute_bytes(train)
    return of.all * (width + (FILE_BYTES if width != FILE_BYTES else 0))
