"""How long the training loop stalls for a checkpoint: written behind the loop, versus in it.

Both sides save the same state of the same model in the same process, in turns; between saves the loop trains on, as it
does in a run, so that a write behind the loop competes with real steps. A side's stall is the time that the call takes;
the time by which the steps after it are slower than steps without a write is printed beside it.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from luthier.config import RunConfig, load_config
from luthier.trainers.base_model import prepare_base
from luthier.trainers.batches import Batch, collate
from luthier.trainers.checkpoint import CheckpointStore
from luthier.trainers.loss import SumLoss
from luthier.trainers.model import build_trainable
from luthier.trainers.resuming import snapshot
from luthier.trainers.saving import Saver
from luthier.trainers.strategies import Strategy, Worker, build_strategy
from luthier.trainers.tokens import Encoded

CONFIG = Path(__file__).parents[1] / "configs" / "quickstart.yaml"
TARGET = 2.0
"""Times that a save behind the loop must stall it less."""

LENGTH_TOKENS = 64
SIDES = ("sync", "async")


def main() -> None:
    """Measure both methods of training; the last line is the worse ratio as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=6, help="saves of each side")
    parser.add_argument("--steps", type=int, default=3, help="optimizer steps after each save")
    parser.add_argument("--methods", nargs="+", default=["lora", "full"])
    asked = parser.parse_args()
    logging.disable(logging.WARNING)
    found = [measure(method, asked.rounds, asked.steps) for method in asked.methods]
    print(json.dumps(min(found, key=lambda one: one["ratio"])))


def measure(method: str, rounds: int, num_steps: int) -> dict[str, Any]:
    """Save in turns with each side; prints the figures of both."""
    cfg = load_config(CONFIG, [f"train.method={method}", "train.bf16=false"])
    base_model_dir = prepare_base(cfg.model, offline=True)
    worker = Worker(0, 1, torch.device("cpu"))
    torch.manual_seed(cfg.seed)
    model = build_trainable(base_model_dir, cfg.model, cfg.train)
    strategy = build_strategy(cfg.train, SumLoss(model), worker, 1_000)
    batch = some_batch(cfg)
    take_steps(strategy, batch, 2)  # the optimizer's moments are made by the first
    stalls: dict[str, list[float]] = {side: [] for side in SIDES}
    after: dict[str, list[float]] = {side: [] for side in (*SIDES, "none")}
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as directory:
        savers = {
            side: Saver(
                CheckpointStore(Path(directory) / side, 1, "eval_loss", side),
                worker,
                lambda row, checkpoint: None,
                in_background=side == "async",
            )
            for side in SIDES
        }
        for number in range(rounds + 1):
            for side in SIDES if number % 2 else SIDES[::-1]:
                began = time.perf_counter()
                savers[side].save(number + 1, {"step": number + 1}, partial(snapshot, strategy, model, worker))
                stall_s = time.perf_counter() - began
                steps_s = take_steps(strategy, batch, num_steps)
                savers[side].wait()
                alone_s = take_steps(strategy, batch, num_steps)
                if number:  # the first round warms up
                    stalls[side].append(stall_s)
                    after[side].append(steps_s)
                    after["none"].append(alone_s)
        size_bytes = sum(path.stat().st_size for path in Path(directory, "sync").rglob("*") if path.is_file())
    none_s = statistics.median(after["none"])
    print(f"\n{method}: a checkpoint of {size_bytes / 2**20:.0f} MiB; a step takes {none_s / num_steps:.2f} s")
    print(f"{'':8}{'stall s':>10}{'low':>8}{'high':>8}{'steps after it slower by s':>30}")
    for side in SIDES:
        middle, low, high = spread(stalls[side])
        slower_s = statistics.median(after[side]) - none_s
        print(f"{side:8}{middle:10.3f}{low:8.3f}{high:8.3f}{slower_s:30.3f}")
    ratios = [sync / behind for sync, behind in zip(stalls["sync"], stalls["async"], strict=True)]
    middle, low, high = spread(ratios)
    settings = (
        f"{method}, {size_bytes / 2**20:.0f} MiB, float32, 1 worker, {rounds} rounds, {torch.get_num_threads()} threads"
    )
    return {
        "name": "async_vs_sync",
        "ratio": round(middle, 2),
        "low": round(low, 2),
        "high": round(high, 2),
        "target": TARGET,
        "settings": settings,
    }


def some_batch(cfg: RunConfig) -> Batch:
    """Rows of one length with loss on every token."""
    ids = torch.randint(100, 1_000, (cfg.train.per_device_train_batch_size, LENGTH_TOKENS))
    rows = [Encoded(str(number), tuple(row), tuple(row)) for number, row in enumerate(ids.tolist())]
    return collate(rows, 0)


def take_steps(strategy: Strategy, batch: Batch, number: int) -> float:
    """Seconds of some optimizer steps."""
    began = time.perf_counter()
    for _ in range(number):
        strategy.forward_backward(batch, batch.num_loss_tokens, last=True)
        strategy.step()
    return time.perf_counter() - began


def spread(values: list[float]) -> tuple[float, float, float]:
    """Median, least and greatest."""
    return statistics.median(values), min(values), max(values)


if __name__ == "__main__":
    main()
