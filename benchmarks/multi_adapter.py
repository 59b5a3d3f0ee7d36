"""Four LoRA trials on one base in one process, against one process per trial, on the quickstart's model and data.

The peer is the trainers' own loop: a process for each trial with its own copy of the base. A machine's cores can be
divided among them in three ways, all of which take turns with the shared base on the same rows, and the fastest is the
peer: all four at a time with a thread each, as many at a time as there are cores with a thread each, and one at a time
with all threads.

    throughput_mb1   tokens a second of all four trials, together / fastest way apart, one row per micro-batch
    throughput_mb4   the same with four rows
    memory           peak resident bytes, together / sum over the four processes, micro-batches of four rows (lower is
                     better); pages that processes share are divided among them
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from harness.sides import Measured, Side, ask_all, ratio_of, start_sides
from harness.workloads import ROOT, base_config

from luthier.config import RunConfig

TRIALS = 4
TARGETS = {"throughput_mb1": 1.5, "throughput_mb4": None, "memory": 0.5}


def main() -> None:
    """Measure, print a table for each micro-batch size, and the ratios as JSON on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6, help="measured turns of each side")
    parser.add_argument("--steps", type=int, default=3, help="optimizer steps of each trial in a turn")
    options = parser.parse_args()
    os.chdir(ROOT)
    prepare(trial(0, 1))
    found = []
    for rows in (1, 4):
        speeds, memory, settings = measure(rows, options.rounds, options.steps)
        found.append(throughput(rows, speeds, settings))
    together, apart = memory["together"], [memory[name] for name in memory if name != "together"]
    ratio = round(together / sum(apart), 3)
    sizes = {"together_bytes": together, "apart_bytes": apart, "of_two_processes": round(together / sum(apart[:2]), 3)}
    settings |= sizes
    found.append({"name": "memory", "ratio": ratio, "low": ratio, "high": ratio, "target": TARGETS["memory"]})
    found[-1]["settings"] = settings
    print(json.dumps(found))


def trial(number: int, rows: int) -> RunConfig:
    """One of the trials: ranks, rates and seeds differ."""
    return base_config(
        f"seed={number}",
        f"train.lora_r={(8, 16, 8, 16)[number]}",
        f"train.learning_rate={(2e-4, 5e-4, 1e-3, 2e-3)[number]}",
        f"train.per_device_train_batch_size={rows}",
        "train.num_workers=1",
        "train.max_steps=1000",
        "train.eval_steps=1000",
        "train.logging_steps=1000",
        "train.lr_scheduler_type=constant",
        f"train.resources_per_worker={{CPU: {os.cpu_count() or 1}}}",
    )


def prepare(cfg: RunConfig) -> None:
    """Tokenise, so that all sides find the rows."""
    from luthier.cluster.session import start
    from luthier.trainers.base_model import prepare_base
    from luthier.trainers.inprocess import make_job

    with start(cfg), tempfile.TemporaryDirectory() as directory:
        make_job(cfg, prepare_base(cfg.model, offline=True), Path(directory))


def measure(rows: int, rounds: int, steps: int) -> tuple[dict[str, list[float]], dict[str, float], dict[str, Any]]:
    """Tokens a second of each way by turn, peak bytes of each process, and what it was measured with."""
    began = time.monotonic()
    cores = os.cpu_count() or 1
    configs = [trial(number, rows) for number in range(TRIALS)]
    makes: dict[str, Any] = {"together": (TogetherSide, (configs, steps))}
    makes |= {f"trial {number}": (AloneSide, (cfg, steps)) for number, cfg in enumerate(configs)}
    # Nothing is preloaded: each trial's process would import by itself.
    sides = start_sides(makes, preload=[])
    shared, apart = sides["together"], [side for name, side in sides.items() if name != "together"]
    ways = {
        "together": partial(timed, [shared], 1, "turn"),
        f"apart, {TRIALS} at a time": partial(timed, apart, TRIALS, "all_at_a_time"),
        f"apart, {cores} at a time": partial(timed, apart, cores, "one_per_core"),
        "apart, 1 at a time": partial(timed, apart, 1, "with_all_threads"),
    }
    try:
        for pair in (apart[:2], apart[2:], [shared]):
            ask_all(pair, "make")
        speeds: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(1 + rounds):
            for name in list(ways)[:: 1 if turn % 2 else -1]:
                speed = ways[name]()
                if turn:
                    speeds[name].append(speed)
        _, peaks = ask_all(list(sides.values()), "peak")
        losses = [side.ask("first_losses") for side in sides.values()]
    finally:
        for side in sides.values():
            side.process.terminate()
            side.process.join()
    show(rows, speeds)
    print(f"took {time.monotonic() - began:.0f} s", flush=True)
    apart_losses = [loss["0"] for loss in losses[1:]]
    settings: dict[str, Any] = {
        "model": "SmolLM2-135M-Instruct",
        "data": "debian-sections",
        "precision": "bfloat16"
        if losses[0]["bf16"]
        else "float32 on all sides: no bfloat16 products on this processor",
        "trials": TRIALS,
        "cores": cores,
        "rows": rows,
        "tokens_per_s": {name: round(statistics.median(values), 1) for name, values in speeds.items()},
        "rounds": rounds,
        "steps_per_turn": steps,
        "largest_difference_of_first_losses": max(
            abs(losses[0][str(number)] - loss) for number, loss in enumerate(apart_losses)
        ),
    }
    return speeds, {name: one["peak_bytes"] for name, one in zip(sides, peaks, strict=True)}, settings


def timed(sides: list[Side], at_a_time: int, request: str) -> float:
    """Tokens a second of all sides' trials, so many sides at a time."""
    seconds, tokens = 0.0, 0.0
    for first in range(0, len(sides), at_a_time):
        took, told = ask_all(sides[first : first + at_a_time], request)
        seconds += took
        tokens += sum(one["tokens"] for one in told)
    return tokens / seconds


def throughput(rows: int, speeds: dict[str, list[float]], settings: dict[str, Any]) -> dict[str, Any]:
    """The ratio to the fastest way apart."""
    peer = max((name for name in speeds if name != "together"), key=lambda name: statistics.median(speeds[name]))
    ratio, low, high = (round(value, 3) for value in ratio_of(speeds["together"], speeds[peer]))
    name = f"throughput_mb{rows}"
    figures = {"name": name, "ratio": ratio, "low": low, "high": high, "target": TARGETS[name]}
    return figures | {"settings": {**settings, "peer": peer}}


def show(rows: int, speeds: dict[str, list[float]]) -> None:
    """A table for people."""
    print(f"\n{f'{rows} row(s) a micro-batch':28} {'tok/s':>8} {'low':>8} {'high':>8}")
    for name, values in speeds.items():
        print(f"{name:28} {statistics.median(values):8.1f} {min(values):8.1f} {max(values):8.1f}")


class TogetherSide:
    """All trials on one base.

    Args:
        configs: The trials.
        steps: Optimizer steps of a turn.
    """

    def __init__(self, configs: list[RunConfig], steps: int) -> None:
        import torch

        from luthier.trainers.base_model import prepare_base
        from luthier.trainers.together import Together

        torch.set_num_threads(os.cpu_count() or 1)
        self._steps = steps
        self._group = Together(prepare_base(configs[0].model, offline=True), configs[0])
        self._workdir = tempfile.TemporaryDirectory()
        places = (Path(self._workdir.name) / str(number) for number in range(len(configs)))
        numbers = [self._group.join(cfg, place) for cfg, place in zip(configs, places, strict=True)]
        self._members = [self._group.members[number] for number in numbers]
        self._first: Measured = {}

    def turn(self) -> Measured:
        """Some optimizer steps of each trial."""
        tokens = 0.0
        for _ in range(self._steps):
            self._group.round()
            tokens += sum(member.last["tokens"] for member in self._members)
            if not self._first:
                self._first = {str(number): member.last["loss"] for number, member in enumerate(self._members)}
        return {"tokens": tokens}

    def first_losses(self) -> Measured:
        """Of each trial's first step."""
        return {**self._first, "bf16": float(self._group.bf16)}

    def peak(self) -> Measured:
        """Peak memory."""
        return {"peak_bytes": proportional_peak_bytes()}

    def final(self) -> Measured:
        """Nothing."""
        return {}


class AloneSide:
    """One trial in its own process, its steps as ``trainers/loop.py`` does them; each way of running sees all rows.

    Args:
        cfg: The trial.
        steps: Optimizer steps of a turn.
    """

    def __init__(self, cfg: RunConfig, steps: int) -> None:
        import torch

        from luthier.trainers.base_model import prepare_base
        from luthier.trainers.inprocess import make_job
        from luthier.trainers.loop import settled
        from luthier.trainers.model import build_trainable
        from luthier.trainers.objectives import Losses
        from luthier.trainers.speed import speed_up
        from luthier.trainers.strategies import Worker, build_strategy

        self._steps = steps
        self._workdir = tempfile.TemporaryDirectory()
        self._worker = Worker(0, 1, torch.device("cpu"))
        torch.manual_seed(cfg.seed)
        job = make_job(cfg, prepare_base(cfg.model, offline=True), Path(self._workdir.name))
        self._rows = job.train_rows()
        self._plan = job.plan(self._rows, 1)
        train = settled(job, self._plan, self._worker)
        self._objective = job.objective()
        model = build_trainable(job.base_model_dir, cfg.model, train)
        self._collate = speed_up(model, train, self._objective.tokenizer.pad_id) or self._objective.collate
        self._strategy = build_strategy(train, Losses(model, self._objective), self._worker, 1000)
        self._next = dict.fromkeys(("all_at_a_time", "one_per_core", "with_all_threads"), 0)
        self._first: Measured = {}
        model.train()

    def all_at_a_time(self) -> Measured:
        """With one thread, beside all others."""
        return self._do("all_at_a_time", 1)

    def one_per_core(self) -> Measured:
        """With one thread, beside as many as there are cores."""
        return self._do("one_per_core", 1)

    def with_all_threads(self) -> Measured:
        """With all threads, alone."""
        return self._do("with_all_threads", os.cpu_count() or 1)

    def _do(self, way: str, threads: int) -> Measured:
        import torch

        from luthier.trainers.loop import _step

        torch.set_num_threads(threads)
        tokens = 0.0
        for step in range(self._next[way], self._next[way] + self._steps):
            parts = self._plan.micro_batches(step, 0)
            batches = [self._collate([self._rows[i] for i in part]) for part in parts]
            row = _step(self._strategy, self._objective, batches, self._worker, step)
            self._first = self._first or {"0": row["loss"]}
            tokens += row["tokens"]
        self._next[way] += self._steps
        return {"tokens": tokens}

    def turn(self) -> Measured:
        """Alone."""
        return self.with_all_threads()

    def first_losses(self) -> Measured:
        """Of the first step."""
        return self._first

    def peak(self) -> Measured:
        """Peak memory."""
        return {"peak_bytes": proportional_peak_bytes()}

    def final(self) -> Measured:
        """Nothing."""
        return {}


def proportional_peak_bytes() -> float:
    """The most memory that this process held at once, pages that it shares counted in part.

    The kernel keeps the peak of the resident size alone. What has been given back since then was the process's own.
    """
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    rollup = dict(line.split(":", 1) for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    kib = int(rollup["Pss"].split()[0]) + int(status["VmHWM"].split()[0]) - int(rollup["Rss"].split()[0])
    return kib * 1024.0


if __name__ == "__main__":
    main()
