"""A table of what well-known models need, from their published dimensions: ``python -m luthier.cluster.planning.known_models``.

Each model is built from its configuration on torch's meta device, so that no weight exists, and planned like any other.
"""

from __future__ import annotations

from typing import Any

from luthier.cluster.planning.memory import estimate
from luthier.cluster.planning.microbatch import of_length
from luthier.cluster.planning.parameters import num_parameters, num_trainable
from luthier.cluster.planning.shapes import Shapes
from luthier.config.train import TrainConfig

GIB = 2**30

SEQUENCE_TOKENS = 2048

_LLAMA_3 = {"vocab_size": 128_256, "num_key_value_heads": 8, "head_dim": 128}
_QWEN_3 = {"vocab_size": 151_936, "num_key_value_heads": 8, "head_dim": 128}

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "SmolLM2-135M": (
        "LlamaConfig",
        {
            "vocab_size": 49_152,
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "tie_word_embeddings": True,
        },
    ),
    "Qwen3-0.6B": (
        "Qwen3Config",
        {
            **_QWEN_3,
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "tie_word_embeddings": True,
        },
    ),
    "Mistral-7B-v0.3": (
        "MistralConfig",
        {
            "vocab_size": 32_768,
            "hidden_size": 4096,
            "intermediate_size": 14_336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "tie_word_embeddings": False,
        },
    ),
    "Llama-3.1-8B": (
        "LlamaConfig",
        {
            **_LLAMA_3,
            "hidden_size": 4096,
            "intermediate_size": 14_336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "tie_word_embeddings": False,
        },
    ),
    "Qwen3-8B": (
        "Qwen3Config",
        {
            **_QWEN_3,
            "hidden_size": 4096,
            "intermediate_size": 12_288,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "tie_word_embeddings": False,
        },
    ),
    "Gemma-2-9B": (
        "Gemma2Config",
        {
            "vocab_size": 256_000,
            "hidden_size": 3584,
            "intermediate_size": 14_336,
            "num_hidden_layers": 42,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 256,
            "tie_word_embeddings": True,
        },
    ),
    "Qwen3-32B": (
        "Qwen3Config",
        {
            **_QWEN_3,
            "hidden_size": 5120,
            "intermediate_size": 25_600,
            "num_hidden_layers": 64,
            "num_attention_heads": 64,
            "tie_word_embeddings": False,
        },
    ),
    "Llama-3.1-70B": (
        "LlamaConfig",
        {
            **_LLAMA_3,
            "hidden_size": 8192,
            "intermediate_size": 28_672,
            "num_hidden_layers": 80,
            "num_attention_heads": 64,
            "tie_word_embeddings": False,
        },
    ),
}
"""Name to transformers' configuration class and the dimensions that the model's authors published."""

WAYS: dict[str, dict[str, Any]] = {
    "LoRA, 1 GPU": {"num_workers": 1},
    "QLoRA, 1 GPU": {"num_workers": 1, "load_in_4bit": True},
    "LoRA, fsdp2, 8 GPUs": {"num_workers": 8, "strategy": "fsdp2"},
    "full, z2, 8 GPUs": {"num_workers": 8, "strategy": "deepspeed", "deepspeed": "z2", "method": "full"},
    "full, z3, 8 GPUs": {"num_workers": 8, "strategy": "deepspeed", "deepspeed": "z3", "method": "full"},
    "full, fsdp2, 8 GPUs": {"num_workers": 8, "strategy": "fsdp2", "method": "full"},
}
"""Columns: what differs from LoRA of rank 16 on GPUs, in bfloat16, one row of SEQUENCE_TOKENS a micro-step."""


def shapes_of(name: str) -> Shapes:
    """A known model's weights."""
    import torch
    import transformers

    kind, sizes = MODELS[name]
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, kind)(**sizes))
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def table() -> str:
    """The table in Markdown."""
    columns = ("model", "parameters", "LoRA r=16 trains", *WAYS)
    lines = [f"| {' | '.join(columns)} |", f"| --- |{' ---: |' * (len(columns) - 1)}"]
    for name in MODELS:
        shapes = shapes_of(name)
        counts = (num_parameters(shapes), num_trainable(shapes, _train({})))
        sizes = (f"{_gib(shapes, _train(way)):.1f}" for way in WAYS.values())
        lines.append(f"| {name} | {counts[0] / 1e9:.3g} B | {counts[1] / 1e6:.3g} M | {' | '.join(sizes)} |")
    return "\n".join(lines)


def _train(way: dict[str, Any]) -> TrainConfig:
    common = {"per_device_train_batch_size": 1, "bf16": True, "resources_per_worker": {"GPU": 1}, "lora_r": 16}
    return TrainConfig.model_validate({**common, **way})


def _gib(shapes: Shapes, train: TrainConfig) -> float:
    return estimate(shapes, train, of_length(train, SEQUENCE_TOKENS)).total_bytes / GIB


if __name__ == "__main__":
    print(table())
