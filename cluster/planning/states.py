"""What each strategy holds of weights, gradients and optimizer state, and the copies that it makes on the way.

Read off the code of torch 2.13 and DeepSpeed 0.19 (``runtime/zero/stage_1_and_2.py``, ``stage3.py``,
``runtime/fp16/fused_optimizer.py``) and off ``trainers/strategies``. Letters: P parameters, T trained parameters, N
workers, c bytes of a number that is computed with, B numbers in a reduction bucket.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from luthier.cluster.planning.activations import BF16_BYTES, FP32_BYTES, compute_bytes, largest_block_numbers
from luthier.cluster.planning.parameters import is_adapted, largest_trained, num_parameters, num_trainable
from luthier.cluster.planning.shapes import Shapes
from luthier.config.train import TrainConfig

ADAM_BYTES = 8
"""Two float32 moments per trained parameter."""

NF4_BYTES = 4.127 / 8
"""4-bit NormalFloat, and one 8-bit constant per 64 weights with its own constants: 4.127 bits (Dettmers et al. 2023)."""

BUCKET = 500_000_000
"""B at most, in ZeRO; as in ``trainers/strategies/zero_config.py``."""

LIVE_PARAMETERS = 1_000_000_000
"""ZeRO-3 keeps gathered weights that are used again within so many parameters (``stage3_max_reuse_distance``)."""

PREFETCHED_PARAMETERS = 50_000_000
"""ZeRO-3 gathers so many at a time (``stage3_prefetch_bucket_size``)."""


@dataclass(frozen=True)
class Sizes:
    """What a strategy is asked about.

    Attributes:
        all: P.
        trained: T.
        frozen_bytes: Of what is not trained.
        workers: N.
        compute: c.
        outside: Parameters outside of the blocks.
        block: Parameters of the largest block.
        largest: Numbers in the largest trained weight.
        whole_model_saved: Whether an artifact holds all weights, and not adapters alone.
        on_gpu: Whether workers compute on a GPU.
    """

    all: int
    trained: int
    frozen_bytes: int
    workers: int
    compute: int
    outside: int
    block: int
    largest: int
    whole_model_saved: bool
    on_gpu: bool

    @property
    def bucket_bytes(self) -> int:
        """A reduction bucket of ZeRO's."""
        return self.compute * min(self.trained, BUCKET)

    @property
    def master_bytes(self) -> int:
        """Float32 weights beside those that are computed with."""
        return FP32_BYTES * self.trained if self.compute == BF16_BYTES else 0

    @property
    def norm_bytes(self) -> int:
        """The largest gradient in float32, of which the norm is taken."""
        return FP32_BYTES * self.largest

    @property
    def saved(self) -> int:
        """Parameters of the artifact."""
        return self.all if self.whole_model_saved else self.trained


@dataclass(frozen=True)
class State:
    """Bytes of one worker.

    Attributes:
        weights: Frozen ones, those computed with, and float32 ones that the optimizer changes.
        gradients: As they are before the optimizer's step.
        optimizer: Its moments.
        gathered: Divided weights that are whole for a while.
        reducing: Copies made to sum gradients over workers, one after the other.
        stepping: Copies made for the optimizer's step, one after the other.
        checkpoint: Copies that the first worker makes to write them while training goes on.
        building: The most while the strategy is made.
    """

    weights: int
    gradients: int
    optimizer: int
    reducing: tuple[int, ...] = ()
    stepping: tuple[int, ...] = ()
    gathered: int = 0
    checkpoint: int = 0
    building: int = 0


def sizes(shapes: Shapes, train: TrainConfig) -> Sizes:
    """The sizes of a run."""
    trained = num_trainable(shapes, train)
    outside, block = largest_block_numbers(shapes)
    return Sizes(
        all=num_parameters(shapes),
        trained=trained,
        frozen_bytes=_frozen_bytes(shapes, train, trained),
        workers=train.max_workers,
        compute=compute_bytes(train),
        outside=outside,
        block=block,
        largest=largest_trained(shapes, train),
        whole_model_saved=train.method == "full",
        on_gpu=train.use_gpu,
    )


def state_of(row: str, of: Sizes) -> State:
    """What the strategy of a row of the compatibility table holds, nothing of it being moved to the host."""
    made = _STATES[row.removesuffix("_offload")](of)
    if of.workers == 1:
        return replace(made, reducing=(), gathered=0)
    return made


def _ddp(of: Sizes) -> State:
    trained = FP32_BYTES * of.trained
    casts = of.compute * of.trained if of.compute == BF16_BYTES else 0  # autocast keeps them for the backward pass
    return State(
        weights=of.frozen_bytes + trained + casts,
        gradients=trained,
        optimizer=ADAM_BYTES * of.trained,
        reducing=(trained,),  # the buckets
        checkpoint=FP32_BYTES * of.saved + trained + ADAM_BYTES * of.trained,
    )


def _fsdp2(of: Sizes) -> State:
    trained = FP32_BYTES * of.trained
    share = min(1.0, of.trained / max(of.all, 1))
    return State(
        weights=(of.frozen_bytes + trained) // of.workers,
        gradients=trained // of.workers,
        optimizer=ADAM_BYTES * of.trained // of.workers,
        gathered=(of.outside + 2 * of.block) * of.compute,
        # A block's float32 gradients are laid out for the reduction while the next block's are.
        reducing=(round(2 * FP32_BYTES * of.block * share),),
        checkpoint=FP32_BYTES * of.saved + (trained + ADAM_BYTES * of.trained) // of.workers,
    )


def _zero0(of: Sizes) -> State:
    weights = of.frozen_bytes + of.compute * of.trained + of.master_bytes
    optimizer = ADAM_BYTES * of.trained
    return State(
        weights=weights,
        gradients=of.compute * of.trained,
        optimizer=optimizer,
        reducing=(of.bucket_bytes,),
        stepping=(2 * of.master_bytes,),  # float32 gradients one by one, then flat
        checkpoint=of.compute * (of.saved + of.trained) + of.master_bytes + optimizer,
        # The moments are made by a step over zeros; before that weights are copied twice.
        building=weights + optimizer + of.master_bytes + (2 * of.compute * of.trained if of.master_bytes else 0),
    )


def _zero12(of: Sizes, *, divided: bool) -> State:
    masters = FP32_BYTES * of.trained // of.workers  # a copy also where it is computed in float32
    optimizer = ADAM_BYTES * of.trained // of.workers
    mine = of.compute * of.trained // of.workers
    bucket = of.bucket_bytes
    # A bucket that holds all gradients takes their place. On a CPU what it replaced stays with the process.
    beside = bucket if divided or not of.on_gpu or of.trained > BUCKET else 0
    return State(
        weights=of.frozen_bytes + of.compute * of.trained + masters,
        gradients=mine if divided else of.compute * of.trained,
        optimizer=optimizer,
        reducing=(beside + bucket + (0 if divided else mine),),  # the bucket, its flat copy, and this worker's part
        stepping=(
            mine + masters,
            of.norm_bytes,
            *(() if of.on_gpu else (of.compute * of.trained,)),
        ),  # gloo gathers into a copy
        checkpoint=of.compute * (of.saved + of.trained) + masters + optimizer,
    )


def _zero1(of: Sizes) -> State:
    return _zero12(of, divided=False)


def _zero2(of: Sizes) -> State:
    return _zero12(of, divided=True)


def _zero3(of: Sizes) -> State:
    mine = of.compute * of.trained // of.workers
    optimizer = ADAM_BYTES * of.trained // of.workers
    masters = of.master_bytes // of.workers
    # Weights are gathered in pieces and copied out of them; on a CPU the freed pieces stay with the process until the
    # step's end, and gloo sums a copy of the bucket.
    pieces = min(of.all, PREFETCHED_PARAMETERS if of.on_gpu else LIVE_PARAMETERS)
    summed = 0 if of.on_gpu else of.bucket_bytes
    return State(
        weights=of.frozen_bytes // of.workers + mine + masters,
        gradients=mine,
        optimizer=optimizer,
        # Weights are gathered into one piece and then copied out of it, so many at a time.
        gathered=of.compute * (min(of.all, LIVE_PARAMETERS) + pieces),
        reducing=(2 * of.bucket_bytes + summed,),  # the bucket, and its parts laid out worker by worker
        stepping=(mine + (FP32_BYTES * of.trained + of.norm_bytes) // of.workers,),
        checkpoint=of.compute * of.saved + FP32_BYTES * of.trained // of.workers + optimizer,
    )


_STATES: dict[str, Callable[[Sizes], State]] = {
    "ddp": _ddp,
    "fsdp2": _fsdp2,
    "z0": _zero0,
    "z1": _zero1,
    "z2": _zero2,
    "z3": _zero3,
}


def _frozen_bytes(shapes: Shapes, train: TrainConfig, trainable: int) -> int:
    """The base that adapters stand beside, in the compute type or in 4 bits; or what full fine-tuning leaves as it is,
    which DeepSpeed casts and the others leave in float32."""
    compute = compute_bytes(train)
    if train.method == "full":
        frozen = num_parameters(shapes) - trainable
        return frozen * (FP32_BYTES if train.strategy_row in ("ddp", "fsdp2") else compute)
    if not train.load_in_4bit:
        return num_parameters(shapes) * compute
    everywhere = train.model_copy(update={"lora_target_modules": "all-linear"})
    quantised = sum(math.prod(shape) for name, shape in shapes.items() if is_adapted(name, shape, everywhere))
    return round(quantised * NF4_BYTES) + (num_parameters(shapes) - quantised) * compute
