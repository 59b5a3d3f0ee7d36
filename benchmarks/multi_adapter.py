"""LoRA trials four to a base, against one process per trial, on the quickstart's model and data.

Together, each core has a process that trains four trials on one copy of the base with one thread, as a sweep's defaults
have it. The peer is the trainers' own loop: a process for each trial with its own copy of the base. A machine's cores can be
divided among these in three ways, and the fastest is the peer: four at a time with a thread each, as many at a time as
there are cores with a thread each, and one at a time with all threads. All ways take turns.

    throughput_mb1   tokens a second of all trials, together / fastest way apart, one row per micro-batch
    throughput_mb4   the same with four rows
    memory           peak resident bytes of four trials, in one process / sum over four processes, micro-batches of four
                     rows (lower is better); pages that processes share are divided among them
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from harness.sides import Measured, Side, ask_all, ratio_of, start_sides
from harness.workloads import ROOT, base_config

from luthier.config import RunConfig

Speeds = dict[str, list[float]]
"""Tokens a second by turn, for each way of running the trials."""

Peaks = tuple[float, list[float]]
"""Bytes of the process of four trials, and of each trial's own."""

TRIALS = 4
SIZES = {1: 2, 4: 1}
"""Rows of a micro-batch, and optimizer steps of each trial in a turn with them."""

TARGETS = {"throughput_mb1": 1.5, "throughput_mb4": None, "memory": 0.5}


def main() -> None:
    """Measure, print a table for each micro-batch size, and the ratios as JSON on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4, help="measured turns of each side")
    options = parser.parse_args()
    os.chdir(ROOT)
    prepare(trial(0, 1))
    speeds, memory, settings = measure(options.rounds)
    found = [throughput(rows, speeds[rows], settings) for rows in SIZES]
    print(json.dumps([*found, memory_ratio(memory, settings)]))


def trial(number: int, rows: int) -> RunConfig:
    """One of the trials: ranks, rates and seeds differ."""
    return base_config(
        f"seed={number}",
        f"train.lora_r={(8, 16)[number % 2]}",
        f"train.learning_rate={(2e-4, 5e-4, 1e-3, 2e-3)[number % 4]}",
        f"train.per_device_train_batch_size={rows}",
        "train.num_workers=1",
        "train.max_steps=1000",
        "train.eval_steps=1000",
        "train.logging_steps=1000",
        "train.lr_scheduler_type=constant",
    )


def prepare(cfg: RunConfig) -> None:
    """Tokenise, so that all sides find the rows."""
    from luthier.cluster.session import start
    from luthier.trainers.base_model import prepare_base
    from luthier.trainers.inprocess import make_job

    with start(cfg), tempfile.TemporaryDirectory() as directory:
        make_job(cfg, prepare_base(cfg.model, offline=True), Path(directory))


def measure(rounds: int) -> tuple[dict[int, Speeds], Peaks, dict[str, Any]]:
    """Tokens a second of each way by turn, for each size; peaks; what it was measured with."""
    cores = os.cpu_count() or 1
    makes: dict[str, Any] = {f"group {number}": (TogetherSide, (number * TRIALS,)) for number in range(cores)}
    makes |= {f"trial {number}": (AloneSide, (number,)) for number in range(TRIALS)}
    # Nothing is preloaded: each trial's process would import by itself.
    sides = start_sides(makes, preload=[])
    groups, apart = list(sides.values())[:cores], list(sides.values())[cores:]
    ways = {
        "together": partial(timed, groups, cores, "turn"),
        f"apart, {TRIALS} at a time": partial(timed, apart, TRIALS, "all_at_a_time"),
        f"apart, {cores} at a time": partial(timed, apart, cores, "one_per_core"),
        "apart, 1 at a time": partial(timed, apart, 1, "with_all_threads"),
    }
    speeds: dict[int, Speeds] = {rows: {name: [] for name in ways} for rows in SIZES}
    try:
        for some in (apart[:2], apart[2:], groups):
            ask_all(some, "make")
        for rows, found in speeds.items():
            began = time.monotonic()
            ask_all(list(sides.values()), "next_size")
            for turn in range(1 + rounds):
                for name in list(ways)[:: 1 if turn % 2 else -1]:
                    speed = ways[name]()
                    if turn:
                        found[name].append(speed)
            show(rows, found)
            print(f"took {time.monotonic() - began:.0f} s", flush=True)
        _, (peak, *peaks) = ask_all([groups[0], *apart], "peak")
        losses, *theirs = (side.ask("first_losses") for side in (groups[0], *apart))
    finally:
        for side in sides.values():
            side.process.terminate()
            side.process.join()
    settings: dict[str, Any] = {
        "model": "SmolLM2-135M-Instruct",
        "data": "debian-sections",
        "precision": "bfloat16" if losses["bf16"] else "float32 on all sides: no bfloat16 products on this processor",
        "trials_to_a_base": TRIALS,
        "cores": cores,
        "rounds": rounds,
        "largest_difference_of_first_losses": max(
            abs(losses[key] - loss) for one in theirs for key, loss in one.items()
        ),
    }
    return speeds, (peak["peak_bytes"], [one["peak_bytes"] for one in peaks]), settings


def timed(sides: list[Side], at_a_time: int, request: str) -> float:
    """Tokens a second of all sides' trials, so many sides at a time."""
    seconds, tokens = 0.0, 0.0
    for first in range(0, len(sides), at_a_time):
        took, told = ask_all(sides[first : first + at_a_time], request)
        seconds += took
        tokens += sum(one["tokens"] for one in told)
    return tokens / seconds


def throughput(rows: int, speeds: Speeds, settings: dict[str, Any]) -> dict[str, Any]:
    """The ratio to the fastest way apart."""
    peer = max((name for name in speeds if name != "together"), key=lambda name: statistics.median(speeds[name]))
    ratio, low, high = (round(value, 3) for value in ratio_of(speeds["together"], speeds[peer]))
    name = f"throughput_mb{rows}"
    figures = {"name": name, "ratio": ratio, "low": low, "high": high, "target": TARGETS[name]}
    medians = {way: round(statistics.median(values), 1) for way, values in speeds.items()}
    return figures | {"settings": {**settings, "rows": rows, "peer": peer, "tokens_per_s": medians}}


def memory_ratio(peaks: Peaks, settings: dict[str, Any]) -> dict[str, Any]:
    """The one process to all four, and in the settings to half of them."""
    together, apart = peaks
    ratio = round(together / sum(apart), 3)
    figures = {"name": "memory", "ratio": ratio, "low": ratio, "high": ratio, "target": TARGETS["memory"]}
    sizes = {"together_bytes": together, "apart_bytes": apart, "to_two_processes": round(together / sum(apart[:2]), 3)}
    return figures | {"settings": {**settings, "rows": max(SIZES), **sizes}}


def show(rows: int, speeds: Speeds) -> None:
    """A table for people."""
    print(f"\n{f'{rows} row(s) a micro-batch':28} {'tok/s':>8} {'low':>8} {'high':>8}")
    for name, values in speeds.items():
        print(f"{name:28} {statistics.median(values):8.1f} {min(values):8.1f} {max(values):8.1f}")


class TogetherSide:
    """Four trials on one base, with one thread.

    Args:
        first: Number of the first trial.
    """

    def __init__(self, first: int) -> None:
        import torch

        from luthier.trainers.base_model import prepare_base
        from luthier.trainers.together import Together

        torch.set_num_threads(1)
        cfg = trial(first, 1)
        self._numbers = range(first, first + TRIALS)
        self._group = Together(prepare_base(cfg.model, offline=True), cfg)
        self._workdir = tempfile.TemporaryDirectory()
        self._sizes = iter(SIZES.items())
        self._first: Measured = {}

    def next_size(self) -> Measured:
        """Go on with new trials."""
        for number in self._group.members:
            self._group.leave(number)
        rows, self._steps = next(self._sizes)
        for number in self._numbers:
            self._group.join(trial(number, rows), Path(self._workdir.name) / f"{rows}-{number}")
        self._members = list(self._group.members.values())
        return {}

    def turn(self) -> Measured:
        """Some optimizer steps of each trial."""
        tokens = 0.0
        for _ in range(self._steps):
            self._group.round()
            tokens += sum(member.last["tokens"] for member in self._members)
            if not self._first:
                losses = [member.last["loss"] for member in self._members]
                self._first = dict(zip(map(str, self._numbers), losses, strict=True))
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
        number: The trial's.
    """

    def __init__(self, number: int) -> None:
        import torch

        from luthier.trainers.base_model import prepare_base
        from luthier.trainers.inprocess import make_job
        from luthier.trainers.loop import settled
        from luthier.trainers.model import build_trainable
        from luthier.trainers.objectives import Losses
        from luthier.trainers.speed import speed_up
        from luthier.trainers.strategies import Worker, build_strategy

        self._number = number
        cfg = trial(number, 1)
        self._workdir = tempfile.TemporaryDirectory()
        self._worker = Worker(0, 1, torch.device("cpu"))
        torch.manual_seed(cfg.seed)
        self._job = job = make_job(cfg, prepare_base(cfg.model, offline=True), Path(self._workdir.name))
        self._rows = job.train_rows()
        train = settled(job, job.plan(self._rows, 1), self._worker)
        self._objective = job.objective()
        model = build_trainable(job.base_model_dir, cfg.model, train)
        self._collate = speed_up(model, train, self._objective.tokenizer.pad_id) or self._objective.collate
        self._strategy = build_strategy(train, Losses(model, self._objective), self._worker, 1000)
        self._sizes = iter(SIZES.items())
        self._first: Measured = {}
        model.train()

    def next_size(self) -> Measured:
        """Go on with other micro-batches."""
        rows, self._steps = next(self._sizes)
        self._plan = replace(self._job, cfg=trial(self._number, rows)).plan(self._rows, 1)
        self._next = dict.fromkeys(("all_at_a_time", "one_per_core", "with_all_threads"), 0)
        return {}

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
            self._first = self._first or {str(self._number): row["loss"]}
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
