"""How soon the next step is done after a worker was killed: with processes standing by, versus without.

Both sides are the quickstart's training on this machine, in turns, in one Ray session. A worker is killed after a step;
the times since then at which signs of the next attempt appear are printed: its processes, the loop's start with the
model loaded, the resumed state, the first step.

    next_step_s   median seconds from the kill to the end of the next step with processes standing by (lower is better)
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from luthier.cluster.session import start
from luthier.config import RunConfig, load_config
from luthier.trainers.base_model import prepare_base
from luthier.trainers.fit import train
from luthier.trainers.metrics_stream import FILE_NAME, read_metrics

CONFIG = Path(__file__).parents[1] / "configs" / "quickstart.yaml"
TARGET_S = 10.0
SIDES = {"standing by": True, "without": False}
SIGNS = ("processes", "model loaded", "state resumed", "step done")


def main() -> None:
    """Measure both sides; the last line is the figure as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2, help="kills of each side")
    parser.add_argument("--kill-after", type=int, default=11, help="optimizer step; by then spares are ready")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("overrides", nargs="*", help="settings, such as train.num_workers=1")
    asked = parser.parse_args()
    logging.disable(logging.WARNING)
    found: dict[str, list[dict[str, float]]] = {side: [] for side in asked.sides}
    for number in range(asked.rounds):
        for side in asked.sides if number % 2 else asked.sides[::-1]:
            cfg = config_of(asked.overrides, asked.kill_after, spare_workers=SIDES[side])
            with start(cfg):
                found[side].append(measure(cfg, asked.kill_after))
            print(side, found[side][-1], flush=True)
    print(json.dumps([next_step(found, asked.overrides)]))


def next_step(found: dict[str, list[dict[str, float]]], overrides: list[str]) -> dict[str, object]:
    """Seconds from the kill to the end of the next step, of the side that was measured first; all signs beside it."""
    times = sorted(one["step done"] for one in next(iter(found.values())))
    figures = {"ratio": statistics.median(times), "low": times[0], "high": times[-1]}
    settings = {
        "unit": "s",
        "model": "SmolLM2-135M-Instruct",
        "data": "debian-sections",
        "cpus": os.cpu_count(),
        "overrides": overrides,
        "medians_s": {side: medians(times) for side, times in found.items()},
    }
    return {"name": "next_step_s", **figures, "target": TARGET_S, "settings": settings}


def medians(times: list[dict[str, float]]) -> dict[str, float]:
    """Of all signs, and of a step without a kill."""
    return {sign: round(statistics.median(one[sign] for one in times), 1) for sign in ("a step", *SIGNS)}


def config_of(overrides: list[str], kill_after: int, *, spare_workers: bool) -> RunConfig:
    """The quickstart's training, short, that saves every other step and goes on once."""
    settings = {"max_failures": 1, "save_steps": 2, "eval_steps": 1000, "max_steps": kill_after + 2}
    lines = [f"train.{key}={value}" for key, value in settings.items()]
    return load_config(CONFIG, [*lines, f"train.spare_workers={str(spare_workers).lower()}", *overrides])


def measure(cfg: RunConfig, kill_after: int) -> dict[str, float]:
    """Train, kill one worker, and tell the seconds from then to each sign of going on."""
    times: dict[str, float] = {}
    base_model_dir = prepare_base(cfg.model, offline=True)
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as directory:
        killer = threading.Thread(target=kill, args=(Path(directory), kill_after, times), daemon=True)
        killer.start()
        train(cfg, base_model_dir=base_model_dir, workdir=Path(directory))
        killer.join()
    return times


def kill(workdir: Path, after: int, times: dict[str, float]) -> None:
    """SIGKILL the youngest worker after a step, and note when the signs appear."""
    metrics = workdir / FILE_NAME
    wait_for(lambda: last_step(metrics) >= after)
    rows = read_metrics(metrics)
    times["a step"] = statistics.median(row["tokens"] / row["tokens_per_s"] for row in rows[1:])
    before = {process.pid for process in workers()}
    owner, stream = workdir / "checkpoints" / "owner", metrics.stat().st_ino
    token = owner.read_text()
    max(workers(), key=lambda process: process.create_time()).kill()
    killed_at = time.monotonic()

    def note(sign: str, condition: Callable[[], bool]) -> None:
        wait_for(condition)
        times[sign] = round(time.monotonic() - killed_at, 2)

    note("processes", lambda: len({process.pid for process in workers()} - before) == len(before))
    note("model loaded", lambda: owner.read_text() != token)
    note("state resumed", lambda: metrics.stat().st_ino != stream)
    resumed = last_step(metrics)
    note("step done", lambda: last_step(metrics) > resumed)


def wait_for(condition: Callable[[], bool]) -> None:
    """Look until it holds."""
    while not condition():
        time.sleep(0.02)


def last_step(metrics: Path) -> int:
    """Of the metrics stream; 0 before there is one."""
    rows = read_metrics(metrics)
    return int(rows[-1]["step"]) if rows else 0


def workers() -> list[psutil.Process]:
    """Ray Train's workers among this process's descendants."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "RayTrainWorker" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:  # it ended meanwhile
            continue
    return found


if __name__ == "__main__":
    main()
