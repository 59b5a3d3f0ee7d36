"""CPU-seconds of a whole sweep until a trial validates within 1 % of the best full run, on debian-sections.

Three sides take turns, once per seed, with the same trials in the same order, rows, schedule and validations:

    luthier          its default searcher and scheduler
    full runs        plain Ray Tune, random search, every trial a full run of TRL's SFTTrainer
    asha             plain Ray Tune with its ASHA (its defaults), every trial a process that runs SFTTrainer

Every process of a side is counted, from its session's start on. The best full run is that of the side "full runs" with the
same seed. A side that does not come within 1 % of it counts as if its sweep's end had done so, which its settings tell.

    vs_random_full   luthier / full runs (lower is better)
    vs_tune_asha     luthier / asha (lower is better)
"""

from __future__ import annotations

import argparse
import json
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
STEPS, VALIDATIONS = 24, 4
SPACE = {
    "train.learning_rate": {"type": "loguniform", "low": 1e-5, "high": 1e-2},
    "train.lora_r": {"type": "choice", "values": [4, 8, 16, 32]},
    "train.lora_alpha": {"type": "choice", "values": [8, 16, 32, 64]},
}


def main() -> None:
    """Measure, print what each side needed, and the ratios as JSON on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="sweeps of each side")
    parser.add_argument("--trials", type=int, default=12, help="trials of each sweep")
    asked = parser.parse_args()
    os.chdir(ROOT)
    defaults = TuneConfig(search_space=SPACE)  # type: ignore[arg-type]  # pydantic makes domains of them
    wanted = {
        "luthier": (LuthierSweep, defaults.scheduler),
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
    """The quickstart's model and rows: 24 steps of 4 rows, validated 4 times on 32 rows."""
    return base_config(
        f"seed={seed}",
        "train.num_workers=1",
        "train.per_device_train_batch_size=4",
        f"train.max_steps={STEPS}",
        f"train.eval_steps={STEPS // VALIDATIONS}",
        "data.max_train_samples=96",
        "data.max_eval_samples=32",
        f"tune.search_space={json.dumps(SPACE)}",
        "tune.overrides={}",
        f"tune.num_samples={trials}",
        f"tune.scheduler={scheduler}",
    )


def compare(sides: Sides, asked: argparse.Namespace) -> list[dict[str, Any]]:
    """What each side needed, seed by seed, and the ratios."""
    best = [value_at_the_end(path) for path in sides["full runs"]]
    needed = {
        side: [cpu_s_until(path, value * (1 + WITHIN)) for path, value in zip(paths, best, strict=True)]
        for side, paths in sides.items()
    }
    print("\nbest full run by seed: " + "  ".join(f"{value:.4f}" for value in best))
    print(f"{'CPU-seconds':12} {'median':>8}  by seed (+: not reached by the sweep's end)")
    for side, found in needed.items():
        each = "  ".join(f"{cpu_s:.0f}{'' if reached else '+'}" for cpu_s, reached in found)
        print(f"{side:12} {statistics.median(cpu_s for cpu_s, _ in found):8.0f}  {each}")
    settings = {
        "model": "SmolLM2-135M-Instruct",
        "seeds": asked.seeds,
        "trials": asked.trials,
        "best_full_run": [round(value, 4) for value in best],
        "cpu_s": {side: [round(cpu_s, 1) for cpu_s, _ in found] for side, found in needed.items()},
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
