"""What one micro-step keeps for its backward pass, and what its logits take.

Counted from what the layers of ``trainers/fused.py``, ``flat_attention.py`` and ``head_loss.py`` and transformers'
norms save (after Korthikanti et al. 2022). Letters: H hidden, A width of the queries, K of the keys, F feed-forward, V
vocabulary, R rank, c bytes of a number that is computed with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from luthier.cluster.planning.microbatch import MicroBatch
from luthier.cluster.planning.parameters import is_adapted, is_trained
from luthier.cluster.planning.shapes import Shapes
from luthier.config.train import TrainConfig
from luthier.freezing import BLOCK

FP32_BYTES = 4
BF16_BYTES = 2

CHUNK_BYTES = {"cpu": 16 * 2**20, "gpu": 512 * 2**20}
"""Float32 logits that the loss makes at a time where it needs no others; as in ``trainers/head_loss.py``."""

_QUERIES = ("q_proj", "query", "q_lin")
_KEYS = ("k_proj", "key", "k_lin")
_FUSED = ("qkv", "c_attn", "query_key_value", "in_proj")
_GATES = ("gate_proj", "gate_up_proj", "w1.")
_UPS = ("up_proj", "c_fc", "fc1", "fc_in", "h_to_4h", "intermediate", "lin1", "w3.")


@dataclass(frozen=True)
class Block:
    """Widths of one transformer block.

    Attributes:
        queries: A.
        keys: K.
        inner: F.
        gated: Whether the feed-forward part multiplies a gate.
        adapters: Summed ranks of its adapters.
    """

    queries: int
    keys: int
    inner: int
    gated: bool
    adapters: int


def compute_bytes(train: TrainConfig) -> int:
    """c; ``bf16: auto`` counts as float32, the larger, on a CPU."""
    in_bf16 = train.use_gpu if train.bf16 == "auto" else train.bf16
    return BF16_BYTES if in_bf16 else FP32_BYTES


def activation_bytes(shapes: Shapes, train: TrainConfig, batch: MicroBatch) -> int:
    """What the backward pass needs of all blocks."""
    hidden = hidden_size(shapes)
    each = [_block_bytes(block, hidden, train, batch) for block in blocks(shapes, train)]
    if train.gradient_checkpointing:
        width = FP32_BYTES if _residual_in_fp32(train) else compute_bytes(train)
        return len(each) * hidden * width * batch.tokens + max(each, default=0)
    # While a block's backward pass runs, gradients as large as what it kept are there beside what all others kept.
    return sum(each) + max(each, default=0)


def logit_bytes(shapes: Shapes, train: TrainConfig, batch: MicroBatch, *, whole: bool) -> int:
    """What the loss takes at its peak.

    Args:
        shapes: The weights.
        train: The settings.
        batch: The micro-batch.
        whole: Logits of all tokens with loss are made at once, as where the head's weight is divided among workers;
            otherwise a chunk at a time, and the trained head's gradient is made in the forward pass.
    """
    if train.objective == "classification":
        return 0
    vocabulary, hidden = embedding_shape(shapes)
    compute = compute_bytes(train)
    if whole or train.objective == "dpo":
        # Forward: logits, float32 and log-softmax. Backward: log-softmax, its gradient, and this twice more in the
        # compute type: cast, and put back where the tokens lie.
        return batch.loss_tokens * vocabulary * (2 * FP32_BYTES + 2 * compute)
    chunk = min(batch.loss_tokens, max(1, CHUNK_BYTES[train.device] // (FP32_BYTES * vocabulary))) if vocabulary else 0
    # The head's gradient in float32, once more when it is scaled by the loss's, and in the weight's own type; and that of
    # embeddings tied to it, before both are added.
    tied = 0 if any("lm_head" in name for name in shapes) else compute
    head = vocabulary * hidden * (2 * FP32_BYTES + compute + tied) if _head_is_trained(shapes, train) else 0
    return chunk * vocabulary * 2 * FP32_BYTES + head


def blocks(shapes: Shapes, train: TrainConfig) -> list[Block]:
    """The widths of every block."""
    found: dict[str, list[tuple[str, tuple[int, ...]]]] = {}
    for name, shape in shapes.items():
        match = BLOCK.search(name)
        if match is not None and len(shape) == 2:
            found.setdefault(match[1], []).append((name, shape))
    return [_block(weights, train) for weights in found.values()]


def _block(weights: list[tuple[str, tuple[int, ...]]], train: TrainConfig) -> Block:
    def width(names: tuple[str, ...]) -> int:
        return sum(shape[0] for name, shape in weights if any(part in name for part in names))

    queries, keys = width(_QUERIES), width(_KEYS)
    fused = width(_FUSED) if not queries else 0
    if fused:
        queries = min(shape[1] for name, shape in weights if any(part in name for part in _FUSED))
        keys = max(0, (fused - queries) // 2)
    gates, ups = width(_GATES), width(_UPS)
    adapters = sum(train.lora_r for name, shape in weights if is_adapted(name, shape, train))
    inner = (gates // 2 if gates and not ups else ups) or gates
    return Block(queries, keys, inner, gated=bool(gates), adapters=adapters if train.method == "lora" else 0)


def _block_bytes(block: Block, hidden: int, train: TrainConfig, batch: MicroBatch) -> int:
    compute = compute_bytes(train)
    trained_norms = compute if train.method == "full" else 0
    if _residual_in_fp32(train):
        # Autocast casts a norm's output anew for each layer that reads it: q, k, v, and gate and up.
        norms = 2 * (FP32_BYTES + FP32_BYTES) * hidden + (3 + 2) * compute * hidden
    else:
        norms = 2 * (FP32_BYTES + compute + trained_norms) * hidden  # input in float32, output, and the one unscaled
    inner = ((3 if train.fused_layers else 4) if block.gated else 2) * compute * block.inner
    per_token = norms + inner + compute * block.adapters
    if not batch.flat or (train.use_gpu and compute == BF16_BYTES):
        attention, per_key = 2 * compute * block.queries, 2 * compute * block.keys
        if not batch.flat:
            per_key = 2 * compute * block.queries  # keys and values are repeated for every head
    else:
        # In float32 on a CPU: queries, output, and the output in the compute type; keys and values for every head.
        attention, per_key = (2 * FP32_BYTES + compute) * block.queries, 2 * FP32_BYTES * block.queries
    return (per_token + attention) * batch.tokens + per_key * batch.key_tokens


def _residual_in_fp32(train: TrainConfig) -> bool:
    """Under DistributedDataParallel whole weights stay float32, and autocast makes products in bfloat16."""
    return train.strategy_row == "ddp" and train.method == "full" and compute_bytes(train) == BF16_BYTES


def embedding_shape(shapes: Shapes) -> tuple[int, int]:
    """(V, H); zeros where no weight is called an embedding."""
    found = (s for name, s in shapes.items() if len(s) == 2 and _is_embedding(name))
    vocabulary, hidden = next(found, (0, 0))
    return vocabulary, hidden


def hidden_size(shapes: Shapes) -> int:
    """H."""
    return embedding_shape(shapes)[1]


def largest_block_numbers(shapes: Shapes) -> tuple[int, int]:
    """Parameters outside of the blocks, and of the largest block."""
    sizes: dict[str, int] = {}
    for name, shape in shapes.items():
        block = BLOCK.search(name)
        number = block[1] if block else ""
        sizes[number] = sizes.get(number, 0) + math.prod(shape)
    outside = sizes.pop("", 0)
    return outside, max(sizes.values(), default=0)


def _head_is_trained(shapes: Shapes, train: TrainConfig) -> bool:
    if train.method != "full":
        return False
    heads = [name for name in shapes if "lm_head" in name or name == "output.weight"]
    return any(is_trained(name, train) for name in heads or [name for name in shapes if _is_embedding(name)])


def _is_embedding(name: str) -> bool:
    return "embed_tokens" in name or name.endswith(("wte.weight", "word_embeddings.weight"))
