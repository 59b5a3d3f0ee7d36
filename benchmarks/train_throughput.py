"""Loss-bearing tokens a second and peak memory of luthier and TRL's SFTTrainer, on the same rows of two workloads.

The sides of a method, each in its own process, take turns at single optimizer steps. Every side gets the same token ids
and labels, so a loss-bearing token is the same for all. Ratios are of medians over the turns.

    lora_vs_trl_default   luthier's defaults / SFTConfig's defaults (among them: gradient checkpointing)
    lora_vs_trl_best      luthier's defaults / SFTTrainer with packing and without checkpointing, with as many tokens a
                          step as luthier has
    full_vs_trl_best      the same in full fine-tuning
    peak_memory           luthier / TRL's best, LoRA, largest resident size of the process (lower is better)

A name's ratio is that of the workload which is worse for luthier; each workload's own is in its settings.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from harness.sides import Side, ratio_of, run_sides
from harness.workloads import Workload, base_config, workload

PRELOAD = ["torch", "transformers", "trl", "peft", "datasets", "harness.training", "luthier.trainers.loop"]
TARGETS = {"lora_vs_trl_default": 3.0, "lora_vs_trl_best": 1.5, "full_vs_trl_best": 1.3, "peak_memory": 0.7}
PAIRS = {
    "lora_vs_trl_default": ("luthier lora", "trl lora default"),
    "lora_vs_trl_best": ("luthier lora", "trl lora best"),
    "full_vs_trl_best": ("luthier full", "trl full best"),
}


def main() -> None:
    """Measure, print a table for each workload, and the ratios as JSON on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8, help="measured steps of each side on each workload")
    parser.add_argument("--workloads", nargs="+", default=["debian-sections", "longer-text"])
    options = parser.parse_args()
    found = {name: measure(name, options.rounds) for name in options.workloads}
    print(json.dumps([worst(name, found) for name in TARGETS]))


def measure(name: str, rounds: int) -> dict[str, dict[str, Any]]:
    """All ratios on one workload."""
    from luthier.precision import computes_in_bf16

    began = time.monotonic()
    bf16 = computes_in_bf16("auto", "cpu")
    shared = [f"train.bf16={str(bf16).lower()}", "train.lr_scheduler_type=constant", "model.attn_implementation=sdpa"]
    lora = base_config(*shared, "train.learning_rate=2e-4")
    full = base_config(*shared, "train.learning_rate=2e-5", "train.method=full")
    work = workload(name, lora)
    from harness.training import LuthierSide, TrlSide

    default = {"per_device_train_batch_size": work.batch_rows, "bf16": bf16}
    best = {
        "bf16": bf16,
        "packing": True,
        "train_sampling_strategy": "random",  # in their order, the first packs are those of the longest rows
        "max_length": work.pack_tokens,
        "per_device_train_batch_size": work.batch_packs,
        "gradient_checkpointing": False,
    }
    lora_sides = {
        "luthier lora": (LuthierSide, (lora, work)),
        "trl lora default": (TrlSide, (lora, work, default)),
        "trl lora best": (TrlSide, (lora, work, best)),
    }
    full_sides = {"luthier full": (LuthierSide, (full, work)), "trl full best": (TrlSide, (full, work, best))}
    # One method after the other: all five sides at once need more than 24 GiB.
    sides: dict[str, Side] = {}
    for compared in (lora_sides, full_sides):
        sides |= run_sides(compared, rounds=rounds, warmup=1, preload=PRELOAD)
    show(name, sides)
    print(f"{name}: took {time.monotonic() - began:.0f} s", flush=True)
    return compare(sides, work, bf16)


def speeds(side: Side) -> list[float]:
    """Loss-bearing tokens a second, turn by turn."""
    return [turn["loss_tokens"] / turn["seconds"] for turn in side.turns]


def show(name: str, sides: dict[str, Side]) -> None:
    """A table for people."""
    print(f"\n{name:24} {'loss tok/s':>10} {'low':>8} {'high':>8} {'tok/s':>8} {'peak GiB':>9} {'final loss':>10}")
    for side in sides.values():
        speed = speeds(side)
        tokens = statistics.median(turn["tokens"] / turn["seconds"] for turn in side.turns)
        figures = f"{statistics.median(speed):10.1f} {min(speed):8.1f} {max(speed):8.1f} {tokens:8.1f}"
        print(f"{side.name:24} {figures} {side.final['peak_bytes'] / 2**30:9.2f} {side.final['final_loss']:10.4f}")


def compare(sides: dict[str, Side], work: Workload, bf16: bool) -> dict[str, dict[str, Any]]:
    """Every ratio with its interval and what it was measured with."""
    settings: dict[str, Any] = {
        "model": "SmolLM2-135M-Instruct",
        "precision": "bfloat16" if bf16 else "float32 on every side: this processor does not multiply in bfloat16",
        "threads": os.cpu_count(),
        "batch_rows": work.batch_rows,
        "trl_pack_tokens": work.pack_tokens,
        "trl_batch_packs": work.batch_packs,
        "rounds": len(next(iter(sides.values())).turns),
    }
    found: dict[str, dict[str, Any]] = {}
    for name, (ours, theirs) in PAIRS.items():
        ratio, low, high = ratio_of(speeds(sides[ours]), speeds(sides[theirs]))
        losses = {side: round(sides[side].final["final_loss"], 4) for side in (ours, theirs)}
        checkpointing = {"gradient_checkpointing": {"luthier": False, "trl": theirs.endswith("default")}}
        found[name] = {"ratio": ratio, "low": low, "high": high, **settings, "final_loss": losses, **checkpointing}
    memory = [sides[side].final["peak_bytes"] for side in ("luthier lora", "trl lora best")]
    ratio = memory[0] / memory[1]
    checkpointing = {"gradient_checkpointing": {"luthier": False, "trl": False}}
    found["peak_memory"] = {"ratio": ratio, "low": ratio, "high": ratio, **settings, **checkpointing}
    return found


def worst(name: str, found: dict[str, dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """The ratio of the workload on which luthier does worse."""
    better_high = name != "peak_memory"
    order = sorted(found, key=lambda work: found[work][name]["ratio"], reverse=not better_high)
    figures = {key: round(found[order[0]][name][key], 3) for key in ("ratio", "low", "high")}
    settings = {"workload": order[0], "by_workload": {work: found[work][name] for work in found}}
    return {"name": name, **figures, "target": TARGETS[name], "settings": settings}


if __name__ == "__main__":
    main()
