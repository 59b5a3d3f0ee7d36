"""Seconds between one trial's last validation and the next one's first optimizer step, on the quickstart's model.

luthier's sweep takes turns with plain Ray Tune in which every trial is one run of TRL's SFTTrainer on the same rows; both
run as many trials at a time as there are cores, one thread each. The first trials of each sweep, which start everything,
are left out: the figure is what every further trial costs before it learns.

    amortised_s      luthier's seconds per further trial (lower is better)
    vs_plain_tune    the same / plain Ray Tune's (lower is better)
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

TARGET_S = 1.5
SIDES = {"luthier": LuthierSweep, "plain tune": PlainTune}


def main() -> None:
    """Measure; the last line is the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="sweeps of each side")
    parser.add_argument("--trials", type=int, default=8, help="trials of a sweep")
    asked = parser.parse_args()
    os.chdir(ROOT)
    configs = [sweep(asked.trials, seed) for seed in range(asked.rounds)]
    with tempfile.TemporaryDirectory() as directory:
        places = {name: Path(directory) / name for name in SIDES}
        run_sides(
            {name: (SIDES[name], (configs, places[name])) for name in SIDES},
            rounds=asked.rounds,
            warmup=0,
            preload=[],
        )
        waits = {name: [startup_s(places[name] / f"{n}.jsonl") for n in range(asked.rounds)] for name in SIDES}
    show(waits)
    ratio, low, high = ratio_of(waits["luthier"], waits["plain tune"])
    settings = {
        "model": "SmolLM2-135M-Instruct",
        "trials": asked.trials,
        "at_a_time": os.cpu_count(),
        "rounds": asked.rounds,
        "plain_tune_s": rounded(statistics.median(waits["plain tune"])),
    }
    ours = waits["luthier"]
    figures = {"ratio": rounded(statistics.median(ours)), "low": rounded(min(ours)), "high": rounded(max(ours))}
    versus = {"ratio": rounded(ratio), "low": rounded(low), "high": rounded(high)}
    print(
        json.dumps(
            [
                {"name": "amortised_s", **figures, "target": TARGET_S, "settings": settings},
                {"name": "vs_plain_tune", **versus, "target": None, "settings": settings},
            ]
        )
    )


def sweep(trials: int, seed: int) -> RunConfig:
    """A sweep of trials of two steps and one validation, none of which is stopped."""
    return base_config(
        f"seed={seed}",
        "train.num_workers=1",
        "train.per_device_train_batch_size=4",
        "train.max_steps=2",
        "train.eval_steps=2",
        "data.max_eval_samples=4",
        "tune.overrides={}",
        f"tune.num_samples={trials}",
        "tune.scheduler=none",
    )


def startup_s(path: Path) -> float:
    """Seconds from the end of a trial to the next one's first step, over all trials but the first of each place.

    With c trials at a time the k-th to start has the place of the (k - c)-th to end, or one that is as good.
    """
    marks, at_a_time = Marks(path), os.cpu_count() or 1
    began = [float(line["time"]) for line in marks.of("first step")]
    ended = [float(line["time"]) for line in marks.of("validated")]
    further = len(began) - at_a_time
    return (sum(began[at_a_time:]) - sum(ended[:further])) / further


def show(waits: dict[str, list[float]]) -> None:
    """A table for people."""
    print(f"\n{'seconds per further trial':28} {'median':>8} {'low':>8} {'high':>8}")
    for name, values in waits.items():
        print(f"{name:28} {statistics.median(values):8.2f} {min(values):8.2f} {max(values):8.2f}")


def rounded(value: float) -> Any:
    """To milliseconds."""
    return round(value, 3)


if __name__ == "__main__":
    main()
