"""What Ray Train and a strategy cost over the same loop run bare in one process, with one worker.

Both sides train the quickstart's model on its data, in turns, each run new: the bare side is the loop in a process of its
own, the other starts Ray Train on a session that is up.

    step           median seconds of a step, Ray Train / bare, after the first step (lower is better)
    first_step_s   seconds from the call to the end of the first step, Ray Train - bare (a difference, not a ratio)
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from harness.sides import ratio_of
from harness.workloads import ROOT, base_config

from luthier.cluster.session import start
from luthier.config import RunConfig
from luthier.trainers.base_model import prepare_base
from luthier.trainers.metrics_stream import FILE_NAME, Metrics, MetricsTail, read_metrics


def main() -> None:
    """Measure in turns and print both figures as JSON on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each side")
    parser.add_argument("--steps", type=int, default=10, help="optimizer steps of a run")
    options = parser.parse_args()
    os.chdir(ROOT)
    cpus = os.cpu_count() or 1
    cfg = base_config(
        f"train.max_steps={options.steps}",
        "train.num_workers=1",
        f"train.resources_per_worker={{CPU: {cpus}}}",
        "train.lr_scheduler_type=constant",
        "data.max_eval_samples=8",
        f"cluster.num_cpus={cpus}",
    )
    base_dir = prepare_base(cfg.model, offline=True)
    firsts: dict[str, list[float]] = {"bare": [], "ray": []}
    steps: dict[str, list[float]] = {"bare": [], "ray": []}
    losses: dict[str, float] = {}
    with start(cfg), tempfile.TemporaryDirectory() as directory:
        from luthier.trainers.inprocess import make_job

        make_job(cfg, base_dir, Path(directory))  # both sides find the rows tokenised
        for turn in range(options.rounds):
            for name, run in (("bare", bare), ("ray", by_ray))[:: 1 if turn % 2 == 0 else -1]:
                first_s, rows = timed(run, cfg, base_dir, Path(directory) / f"{name}-{turn}")
                firsts[name].append(first_s)
                steps[name] += [row["tokens"] / row["tokens_per_s"] for row in rows[1:]]
                losses[name] = rows[-1]["loss"]
                print(
                    f"{name:5} first step after {first_s:6.2f} s, then {statistics.median(steps[name]):6.3f} s a step"
                )
    settings = {
        "model": "SmolLM2-135M-Instruct",
        "data": "debian-sections",
        "strategy": cfg.train.strategy,
        "threads": cpus,
        "last_loss": losses,
    }
    print(json.dumps([step_ratio(steps, settings), first_step(firsts, settings)]))


def timed(
    run: Callable[[RunConfig, Path, Path], None], cfg: RunConfig, base_dir: Path, workdir: Path
) -> tuple[float, list[Metrics]]:
    """Seconds until the first step is done, and the metrics of all."""
    seen: list[float] = []
    began = time.monotonic()
    with MetricsTail(workdir / FILE_NAME, lambda row: seen.append(time.monotonic() - began), interval_s=0.02):
        run(cfg, base_dir, workdir)
    return seen[0], read_metrics(workdir / FILE_NAME)


def bare(cfg: RunConfig, base_dir: Path, workdir: Path) -> None:
    """The loop in a new process, as Ray Train's worker is one."""
    import multiprocessing

    process = multiprocessing.get_context("spawn").Process(target=_loop, args=(cfg, base_dir, workdir))
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(f"the bare side failed with exit code {process.exitcode}")


def _loop(cfg: RunConfig, base_dir: Path, workdir: Path) -> None:
    from luthier.trainers.inprocess import train_in_process

    train_in_process(cfg, base_model_dir=base_dir, workdir=workdir, report=lambda row, path: None)


def by_ray(cfg: RunConfig, base_dir: Path, workdir: Path) -> None:
    """The same through Ray Train."""
    from luthier.trainers.fit import train

    train(cfg, base_model_dir=base_dir, workdir=workdir)


def step_ratio(steps: dict[str, list[float]], settings: dict[str, object]) -> dict[str, object]:
    """How much longer a step takes."""
    ratio, low, high = ratio_of(steps["ray"], steps["bare"])
    figures = {"ratio": round(ratio, 4), "low": round(low, 4), "high": round(high, 4)}
    return {"name": "step", **figures, "target": 1.03, "settings": settings}


def first_step(firsts: dict[str, list[float]], settings: dict[str, object]) -> dict[str, object]:
    """How much later the first step is done, turn by turn."""
    later = sorted(ray - bare for ray, bare in zip(firsts["ray"], firsts["bare"], strict=True))
    figures = {"ratio": round(statistics.median(later), 2), "low": round(later[0], 2), "high": round(later[-1], 2)}
    return {"name": "first_step_s", **figures, "target": 8.0, "settings": {**settings, "unit": "s"}}


if __name__ == "__main__":
    main()
