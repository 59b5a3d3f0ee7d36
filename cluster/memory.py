"""Parameters and memory of a fine-tuning run, from the shapes of the weights alone.

Letters: P parameters, T trainable parameters, N workers, B rows, S tokens, H hidden, F feed-forward,
K key/value width, V vocabulary.
"""

from __future__ import annotations

import math

from pydantic import BaseModel, ConfigDict

from luthier.cluster.shapes import Shapes
from luthier.config.train import TrainConfig
from luthier.freezing import BLOCK, is_frozen

FP32_BYTES = 4
BF16_BYTES = 2
ADAM_BYTES = 8  # two float32 moments per trained parameter
# float32 logits, their gradient and the softmax, and the bfloat16 product they come from.
LOGIT_BYTES = 3 * FP32_BYTES + BF16_BYTES

# 4-bit NormalFloat, and one 8-bit constant per 64 weights with its own constants: 4.127 bits (Dettmers et al. 2023).
NF4_BYTES = 4.127 / 8

_NOT_ADAPTED = (
    "embed",
    "lm_head",
    "wte",
    "wpe",
)  # peft's "all-linear" leaves embeddings and the output layer out


class MemoryEstimate(BaseModel):
    """Bytes that one worker's device holds at the peak of a step, and what is kept in the host's memory instead."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    logits_bytes: int
    gathered_bytes: int = 0
    host_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """Sum of all parts on the device."""
        parts = (self.weights_bytes, self.gradients_bytes, self.optimizer_bytes, self.gathered_bytes)
        return sum(parts) + self.activations_bytes + self.logits_bytes


def num_parameters(shapes: Shapes) -> int:
    """Parameters of the model."""
    return sum(map(math.prod, shapes.values()))


def num_trainable(shapes: Shapes, train: TrainConfig) -> int:
    """Parameters that the method trains: all, or r * (in + out) per adapted layer (Hu et al. 2021)."""
    if train.classification.freeze_body:
        return sum(math.prod(shape) for name, shape in shapes.items() if "pooler" in name)  # and the small new head
    if train.method == "full":
        return sum(
            math.prod(shape)
            for name, shape in shapes.items()
            if not is_frozen(name, train.freeze_layers, train.freeze_modules)
        )
    total = 0
    for name, shape in shapes.items():
        if any(f".{module}." in f".{name}" for module in train.lora_modules_to_save):
            total += math.prod(shape)
        if is_adapted(name, shape, train):
            total += train.lora_r * sum(shape) + (shape[0] if train.use_dora else 0)  # DoRA: one magnitude per output
    return total


def is_adapted(name: str, shape: tuple[int, ...], train: TrainConfig) -> bool:
    """Whether a weight gets an adapter."""
    module = name.removesuffix(".weight")
    if len(shape) != 2 or module == name:
        return False
    if train.lora_target_modules == "all-linear":
        return not any(part in module for part in _NOT_ADAPTED)
    return any(module == target or module.endswith(f".{target}") for target in train.lora_target_modules)


def estimate(shapes: Shapes, train: TrainConfig, *, sequence_tokens: int) -> MemoryEstimate:
    """Memory of one worker.

    Args:
        shapes: The weights.
        train: Method, precision, strategy and batch size.
        sequence_tokens: S, the longest sequence of a batch.
    """
    state = _state(shapes, train)
    rows = train.per_device_train_batch_size * (2 if train.objective == "dpo" else 1)  # a pair is two conversations
    tokens = rows * sequence_tokens
    vocabulary = next((s[0] for name, s in shapes.items() if len(s) == 2 and _is_embedding(name)), 0)
    return state.model_copy(
        update={
            "activations_bytes": tokens * _activation_bytes_per_token(shapes, train),
            "logits_bytes": 0 if train.objective == "classification" else tokens * vocabulary * LOGIT_BYTES,
        }
    )


def zero_stage(row: str) -> int:
    """The ZeRO stage whose parts a strategy divides; FSDP2 divides what stage 3 does (Zhao et al. 2023)."""
    return {"ddp": 0, "fsdp2": 3}[row] if row in ("ddp", "fsdp2") else int(row[1])


def _state(shapes: Shapes, train: TrainConfig) -> MemoryEstimate:
    """Weights, gradients and optimizer state; what is divided is so by N (Rajbhandari et al. 2020)."""
    row, workers, compute = train.strategy_row, train.max_workers, _compute_bytes(train)
    stage = zero_stage(row)
    trainable = num_trainable(shapes, train)
    frozen = _frozen_bytes(shapes, train, trainable)
    # Trained weights are float32; with bfloat16 there is a copy to compute with, at FSDP2 of gathered blocks only.
    copied = compute if compute == BF16_BYTES and row != "fsdp2" else 0
    trained = trainable * (FP32_BYTES + copied)
    gradients, optimizer = trainable * FP32_BYTES, trainable * ADAM_BYTES
    if stage >= 1:
        optimizer //= workers
    if stage >= 2:
        gradients //= workers
    if stage >= 3:
        frozen, trained = frozen // workers, trained // workers
    host = 0
    if row.endswith("_offload") and train.use_gpu:  # on a CPU the device's memory is the host's
        host, optimizer = optimizer, 0
        if stage == 3:
            host, frozen, trained = host + frozen + trained, 0, 0
    return MemoryEstimate(
        weights_bytes=frozen + trained,
        gradients_bytes=gradients,
        optimizer_bytes=optimizer,
        activations_bytes=0,
        logits_bytes=0,
        gathered_bytes=_gathered_bytes(shapes, compute) if stage == 3 and workers > 1 else 0,
        host_bytes=host,
    )


def _frozen_bytes(shapes: Shapes, train: TrainConfig, trainable: int) -> int:
    """The base that adapters stand beside, in the compute type or in 4 bits; or what full fine-tuning leaves as it is."""
    if train.method == "full":
        return (num_parameters(shapes) - trainable) * FP32_BYTES
    compute = _compute_bytes(train)
    if not train.load_in_4bit:
        return num_parameters(shapes) * compute
    quantised = sum(
        math.prod(shape)
        for name, shape in shapes.items()
        if len(shape) == 2 and not any(part in name for part in _NOT_ADAPTED)
    )
    return round(quantised * NF4_BYTES) + (num_parameters(shapes) - quantised) * compute


def _gathered_bytes(shapes: Shapes, compute: int) -> int:
    """Divided weights that are whole for a while: what lies outside the blocks, the block at work and the next."""
    blocks: dict[str, int] = {}
    for name, shape in shapes.items():
        block = BLOCK.search(name)
        blocks[block[1] if block else ""] = blocks.get(block[1] if block else "", 0) + math.prod(shape)
    outside = blocks.pop("", 0)
    return (outside + 2 * max(blocks.values(), default=0)) * compute


def _compute_bytes(train: TrainConfig) -> int:
    """Bytes of one number in forward and backward; ``bf16: auto`` counts as float32, the larger, on a CPU."""
    in_bf16 = train.use_gpu if train.bf16 == "auto" else train.bf16
    return BF16_BYTES if in_bf16 else FP32_BYTES


def _activation_bytes_per_token(shapes: Shapes, train: TrainConfig) -> int:
    """What the backward pass needs, per token: after Korthikanti et al. 2022, for gated feed-forward blocks.

    A block keeps its two norms' inputs and outputs, the inputs being float32 (8H as two-byte elements), q and
    its rotation and the attention's output (3H), k, v and the rotation (3K), and gate, up, activation and
    product (4F).
    """
    hidden = next((s[1] for name, s in shapes.items() if len(s) == 2 and _is_embedding(name)), 0)
    compute = _compute_bytes(train)
    layers: dict[str, int] = {}
    for name, shape in shapes.items():
        match = BLOCK.search(name)
        if match is None or len(shape) != 2:
            continue
        layers.setdefault(match[1], 11 * hidden)
        if any(part in name for part in ("k_proj", "v_proj")):
            layers[match[1]] += 3 * shape[0] // 2
        elif any(part in name for part in ("gate_proj", "up_proj")):
            layers[match[1]] += 2 * shape[0]
    if train.gradient_checkpointing:
        return (len(layers) * hidden + max(layers.values(), default=0)) * compute
    return sum(layers.values()) * compute


def _is_embedding(name: str) -> bool:
    return "embed_tokens" in name or name.endswith(("wte.weight", "word_embeddings.weight"))
