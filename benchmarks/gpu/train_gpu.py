"""Tokens a second of LoRA on an 8B model, and the share of a GPU's peak that full fine-tuning of a 1B model reaches.

Models are randomly initialised from Llama 3's published shapes, so nothing is downloaded; rows are random token ids, each
as long as the sequence, every token with loss. One GPU. Run: python benchmarks/gpu/train_gpu.py

    lora_8b_tokens_per_s   8B, LoRA r=16 on all linear layers, sequence 4,096, bfloat16 (target: 14,000 on an H100)
    full_1b_mfu            1B, AdamW on every weight: 6 x weights x tokens + attention, over the peak (target: 0.45)
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

SHAPES: dict[str, dict[str, Any]] = {
    "8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "rope_theta": 500000.0,
    },
    "1b": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "tie_word_embeddings": True,
        "rope_theta": 500000.0,
    },
}
PEAK_BF16 = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12}
"""Dense bfloat16 products, floating-point operations a second, from NVIDIA's data sheets."""


def main() -> None:
    """Measure both and print them as JSON on the last line; exit code 2 without a GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10, help="measured steps of each model")
    parser.add_argument("--sequence", type=int, default=4096, help="tokens of a row")
    parser.add_argument("--rows", type=int, nargs=2, default=[1, 4], help="rows of a step: 8B LoRA, 1B full")
    parser.add_argument("--checkpointing", type=int, nargs=2, default=[1, 0], help="gradient checkpointing: 8B, 1B")
    parser.add_argument("--liger", action="store_true", help="use Liger's kernels")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("benchmarks/gpu/train_gpu.py needs a CUDA GPU, and torch finds none on this machine.", file=sys.stderr)
        sys.exit(2)
    print(json.dumps([lora_8b(options), full_1b(options)]))


def lora_8b(options: argparse.Namespace) -> dict[str, Any]:
    """Tokens a second of LoRA on 8B."""
    speeds, settings, _ = measure("8b", "lora", options.rows[0], bool(options.checkpointing[0]), options)
    return result("lora_8b_tokens_per_s", speeds, 14_000.0, settings)


def full_1b(options: argparse.Namespace) -> dict[str, Any]:
    """Model FLOPs utilisation (Chowdhery et al. 2022) of full fine-tuning on 1B."""
    speeds, settings, model = measure("1b", "full", options.rows[1], bool(options.checkpointing[1]), options)
    name = torch.cuda.get_device_name()
    peak = next((value for key, value in PEAK_BF16.items() if key in name), None)
    if peak is None:
        print(f"the peak of {name} is not known; add it to PEAK_BF16.", file=sys.stderr)
        sys.exit(2)
    shape = SHAPES["1b"]
    # Causal attention: forward 2 products of S^2/2 pairs, backward twice that, so 6 x layers x hidden x S a token.
    attention = 6 * shape["num_hidden_layers"] * shape["hidden_size"] * options.sequence
    per_token = 6 * sum(p.numel() for p in model.parameters()) + attention
    return result("full_1b_mfu", [speed * per_token / peak for speed in speeds], 0.45, settings)


def result(name: str, values: list[float], target: float, settings: dict[str, Any]) -> dict[str, Any]:
    """The figure with the least and the most of the steps."""
    return {
        "name": name,
        "ratio": statistics.median(values),
        "low": min(values),
        "high": max(values),
        "target": target,
        "settings": settings,
    }


def measure(
    size: str, method: str, rows: int, checkpointing: bool, options: argparse.Namespace
) -> tuple[list[float], dict[str, Any], torch.nn.Module]:
    """Tokens a second, step by step, of luthier's own optimizer step."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from luthier.config.train import TrainConfig
    from luthier.trainers.loop import _step
    from luthier.trainers.model import with_adapter
    from luthier.trainers.objectives.sft import Sft
    from luthier.trainers.speed import speed_up
    from luthier.trainers.strategies import Worker, build_strategy
    from luthier.trainers.tokens import Encoded

    train = TrainConfig.model_validate(
        {
            "method": method,
            "bf16": True,
            "gradient_checkpointing": checkpointing,
            "use_liger_kernel": options.liger,
            "resources_per_worker": {"GPU": 1},
        }
    )
    device = torch.device("cuda")
    torch.manual_seed(0)
    frozen = torch.bfloat16 if method == "lora" else torch.float32
    with torch.device(device):
        config = LlamaConfig(**SHAPES[size], max_position_embeddings=options.sequence)
        model: Any = LlamaForCausalLM._from_config(config, dtype=frozen)
    model.config.use_cache = False
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if method == "lora":
        model.enable_input_require_grads()
        model = with_adapter(model, train)
    model.train()
    objective = Sft(Path(), options.sequence, assistant_only_loss=False)  # rows are token ids: no tokenizer is read
    collate = speed_up(model, train, pad_id=0) or objective.collate
    worker = Worker(0, 1, device)
    strategy = build_strategy(train, objective.loss(model), worker, num_steps=1000)
    speeds = []
    for step in range(1, options.steps + 4):
        ids = torch.randint(1, 128_000, (rows, options.sequence)).tolist()
        batch = collate([Encoded(str(n), tuple(row), tuple(row)) for n, row in enumerate(ids)]).to(device)
        torch.cuda.synchronize()
        began = time.perf_counter()
        measured = _step(strategy, objective, [batch], worker, step)
        torch.cuda.synchronize()
        if step > 3:
            speeds.append(rows * options.sequence / (time.perf_counter() - began))
    settings = {
        "gpu": torch.cuda.get_device_name(),
        "rows": rows,
        "sequence": options.sequence,
        "gradient_checkpointing": checkpointing,
        "liger": options.liger,
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
        "last_loss": measured["loss"],
    }
    torch.cuda.reset_peak_memory_stats()
    return speeds, settings, model


if __name__ == "__main__":
    main()
