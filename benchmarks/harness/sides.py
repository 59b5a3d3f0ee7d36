"""Two or more sides of a comparison, each in its own process, which take turns while the others wait.

Turns keep slow drifts of a machine (heat, neighbours) from falling on one side; own processes keep one side's memory
and threads from touching another's.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

Measured = dict[str, float]


class Runner(Protocol):
    """One side inside its process; made there, which is its preparation."""

    def turn(self) -> Measured:
        """Do one turn and tell of it: ``seconds``, and what was done in them."""
        ...

    def final(self) -> Measured:
        """What there is to tell after the last turn."""
        ...


Make = Callable[..., Runner]


@dataclass
class Side:
    """A running side.

    Attributes:
        name: For messages.
        turns: What each measured turn told.
        final: What the side told at its end, with the ``peak_bytes`` of its turns.
    """

    name: str
    process: Any
    pipe: Connection
    turns: list[Measured]
    final: Measured

    def ask(self, request: str) -> Measured:
        """Let the side do one thing, ``make``, ``end`` or a method of its runner, and wait for it.

        Raises:
            SystemExit: The side failed; its traceback is on standard error.
        """
        self.pipe.send(request)
        return self.answer()

    def answer(self) -> Measured:
        """What the side tells of the thing that it was asked to do.

        Raises:
            SystemExit: The side failed; its traceback is on standard error.
        """
        answer = self.pipe.recv()
        if isinstance(answer, str):
            sys.exit(f"{self.name} failed:\n{answer}")
        return answer  # type: ignore[no-any-return]


def run_sides(
    makes: Mapping[str, tuple[Make, tuple[Any, ...]]], *, rounds: int, warmup: int, preload: Sequence[str]
) -> dict[str, Side]:
    """Run sides in turns.

    Args:
        makes: A module-level function or class, and its arguments, by the side's name.
        rounds: Measured turns of each side.
        warmup: Turns before them, which are thrown away.
        preload: Modules to import once for all sides.
    """
    sides = start_sides(makes, preload=preload)
    try:
        for side in sides.values():
            side.ask("make")
        order = list(sides.values())
        shuffle = random.Random(0)
        for turn in range(warmup + rounds):
            shuffle.shuffle(order)
            for side in order:
                measured = side.ask("turn")
                if turn >= warmup:
                    side.turns.append(measured)
        for side in sides.values():
            side.final = side.ask("end")
    finally:
        for side in sides.values():
            side.process.terminate()
            side.process.join()
    return sides


def start_sides(makes: Mapping[str, tuple[Make, tuple[Any, ...]]], *, preload: Sequence[str]) -> dict[str, Side]:
    """Start the processes of sides, which then wait to be asked to ``make`` their runners.

    Args:
        makes: As :func:`run_sides` takes them.
        preload: Modules to import once for all sides.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    sides = {}
    for name, (make, args) in makes.items():
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, make, args), daemon=True)
        process.start()
        sides[name] = Side(name, process, ours, [], {})
    return sides


def ask_all(sides: Sequence[Side], request: str) -> tuple[float, list[Measured]]:
    """Let sides do one thing at the same time; the seconds until the last is done, and what each tells."""
    began = time.perf_counter()
    for side in sides:
        side.pipe.send(request)
    answers = [side.answer() for side in sides]
    return time.perf_counter() - began, answers


def _serve(pipe: Connection, make: Make, args: tuple[Any, ...]) -> None:
    sys.stdout = sys.stderr  # what a library prints is no result
    try:
        pipe.recv()
        runner = make(*args)
        pipe.send({})
        while True:
            request = pipe.recv()
            if request != "end":
                pipe.send(getattr(runner, request)())
            else:
                peak = float(peak_bytes())
                pipe.send({**runner.final(), "peak_bytes": peak})
    except EOFError:
        os._exit(0)
    except BaseException:
        pipe.send(traceback.format_exc())
        raise


def peak_bytes() -> int:
    """The most memory that this process ever held at once."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def ratio_of(
    numerators: Sequence[float], denominators: Sequence[float], *, seed: int = 0
) -> tuple[float, float, float]:
    """Ratio of medians, and a 95 % bootstrap interval over the turns."""
    draw = random.Random(seed)

    def one(a: Sequence[float], b: Sequence[float]) -> float:
        return statistics.median(a) / statistics.median(b)

    again = sorted(
        one(draw.choices(numerators, k=len(numerators)), draw.choices(denominators, k=len(denominators)))
        for _ in range(2000)
    )
    return one(numerators, denominators), again[50], again[1949]


def paired_ratio(
    numerators: Sequence[float], denominators: Sequence[float], *, seed: int = 0
) -> tuple[float, float, float]:
    """Mean ratio of two sides' turns of the same round, and a 95 % bootstrap interval over the rounds."""
    return _mean_of([a / b for a, b in zip(numerators, denominators, strict=True)], seed)


def paired_difference(ours: Sequence[float], theirs: Sequence[float], *, seed: int = 0) -> tuple[float, float, float]:
    """Mean difference of two sides' turns of the same round, and a 95 % bootstrap interval over the rounds."""
    return _mean_of([a - b for a, b in zip(ours, theirs, strict=True)], seed)


def _mean_of(values: Sequence[float], seed: int) -> tuple[float, float, float]:
    draw = random.Random(seed)
    again = sorted(statistics.fmean(draw.choices(values, k=len(values))) for _ in range(2000))
    return statistics.fmean(values), again[50], again[1949]
