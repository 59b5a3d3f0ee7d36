"""CPU-seconds of a whole sweep until a trial validates within 1 % of the best full run, on debian-sections.

Four sides take turns, once per seed, with the same trials in the same order, rows, schedule and validations:

    luthier          its default searcher and scheduler
    luthier full     luthier, every trial a full run
    full runs        plain Ray Tune, random search, every trial a full run of TRL's SFTTrainer
    asha             plain Ray Tune with its ASHA (its defaults), every trial a process that runs SFTTrainer

Every process of a side is counted, from its session's start on. Two trainers draw other orders and starts from one seed, so
their best full runs differ by some percent; the level to come within 1 % of is the worse of the two, which both can
reach. A side that does not counts as if its sweep's end had done so, which the settings tell.

    vs_random_full   luthier / full runs (lower is better)
    vs_tune_asha     luthier / asha (lower is better)
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from harness.marks import Marks
from harness.sides import ratio_of, run_sides
from harness.sweeps import LuthierSweep, PlainTune
from harness.workloads import ROOT, base_config

from luthier.config import RunConfig
from luthier.config.tune import TuneConfig

Sides = dict[str, list[Path]]

TARGETS = {"vs_random_full": ("full runs", 1 / 6), "vs_tune_asha": ("asha", 1 / 2)}
WITHIN = 0.01
STEPS, VALIDATIONS, ROWS = 32, 8, 8
FULL = {"luthier": "luthier full", "trl": "full runs"}
SPACE = {
    "train.learning_rate": {"type": "loguniform", "low": 1e-5, "high": 1e-2},
    "train.lora_r": {"type": "choice", "values": [4, 8, 16, 32]},
    "train.lora_alpha": {"type": "choice", "values": [8, 16, 32, 64]},
}


def main() -> None:
    """Measure, print what each side needed, and the ratios as JSON on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="sweeps of each side")
    parser.add_argument("--trials", type=int, default=10, help="trials of each sweep")
    asked = parser.parse_args()
    os.chdir(ROOT)
    defaults = TuneConfig(search_space=SPACE)  # type: ignore[arg-type]  # pydantic makes domains of them
    wanted = {
        "luthier": (LuthierSweep, defaults.scheduler),
        "luthier full": (LuthierSweep, "none"),
        "full runs": (PlainTune, "none"),
        "asha": (PlainTune, "asha"),
    }
    with tempfile.TemporaryDirectory() as name:
        sides: Sides = {side: [Path(name) / side / f"{n}.jsonl" for n in range(asked.seeds)] for side in wanted}
        run_sides(
            {
                side: (kind, ([sweep(asked.trials, scheduler, seed) for seed in range(asked.seeds)], Path(name) / side))
                for side, (kind, scheduler) in wanted.items()
            },
            rounds=asked.seeds,
            warmup=0,
            preload=[],
        )
        print(json.dumps(compare(sides, asked)))


def sweep(trials: int, scheduler: str, seed: int) -> RunConfig:
    """The quickstart's model, rows and micro-batch: 32 steps of 8 rows, validated 8 times on 32 rows."""
    return base_config(
        f"seed={seed}",
        "train.num_workers=1",
        f"train.per_device_train_batch_size={ROWS}",
        f"train.max_steps={STEPS}",
        f"train.eval_steps={STEPS // VALIDATIONS}",
        f"data.max_train_samples={STEPS * ROWS}",
        "data.max_eval_samples=32",
        f"tune.search_space={json.dumps(SPACE)}",
        "tune.overrides={}",
        f"tune.num_samples={trials}",
        f"tune.scheduler={scheduler}",
    )


def compare(sides: Sides, asked: argparse.Namespace) -> list[dict[str, Any]]:
    """What each side needed, seed by seed, and the ratios."""
    best = {trainer: [value_at_the_end(path) for path in sides[side]] for trainer, side in FULL.items()}
    levels = [max(values) * (1 + WITHIN) for values in zip(*best.values(), strict=True)]
    needed = {
        side: [cpu_s_until(path, level) for path, level in zip(paths, levels, strict=True)]
        for side, paths in sides.items()
    }
    for trainer, values in best.items():
        print(f"{f'best full run, {trainer}':24}" + "  ".join(f"{value:.4f}" for value in values))
    print(f"\n{'CPU-seconds':16} {'median':>8}  by seed (+: not reached by the sweep's end)")
    for side, found in needed.items():
        each = "  ".join(f"{cpu_s:.0f}{'' if reached else '+'}" for cpu_s, reached in found)
        print(f"{side:16} {statistics.median(cpu_s for cpu_s, _ in found):8.0f}  {each}")
    settings = {
        "model": "SmolLM2-135M-Instruct",
        "seeds": asked.seeds,
        "trials": asked.trials,
        "steps": STEPS,
        "validations": VALIDATIONS,
        "best_full_run": {trainer: [round(value, 4) for value in values] for trainer, values in best.items()},
        "best": {side: [round(value_at_the_end(path), 4) for path in paths] for side, paths in sides.items()},
        "cpu_s": {side: [round(cpu_s, 1) for cpu_s, _ in found] for side, found in needed.items()},
        "cpu_s_to_the_end": {
            side: [round(cpu_s_until(path, -math.inf)[0], 1) for path in paths] for side, paths in sides.items()
        },
        "not_reached": {side: sum(not reached for _, reached in found) for side, found in needed.items()},
    }
    ratios = []
    for name, (peer, aim) in TARGETS.items():
        ours, theirs = ([cpu_s for cpu_s, _ in needed[side]] for side in ("luthier", peer))
        ratio, low, high = (round(value, 3) for value in ratio_of(ours, theirs))
        figures = {"name": name, "ratio": ratio, "low": low, "high": high, "target": round(aim, 3)}
        ratios.append({**figures, "settings": settings})
    return ratios


def value_at_the_end(path: Path) -> float:
    """The best value of a trial's last validation."""
    return min(float(line["value"]) for line in Marks(path).of("validated") if line["step"] == STEPS)


def cpu_s_until(path: Path, target: float) -> tuple[float, bool]:
    """CPU-seconds from the beginning to the first validation that is at least as good; to the end where there is none."""
    marks = Marks(path)
    (begun,), (ended,) = marks.of("begun"), marks.of("ended")
    good = [line for line in marks.of("validated") if line["value"] <= target]
    last = good[0] if good else ended
    return float(last["cpu_s"]) - float(begun["cpu_s"]), bool(good)


if __name__ == "__main__":
    main()
