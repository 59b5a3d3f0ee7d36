"""Endpoints that take turns: one is under load while the processes of the others are stopped."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness.load import Ask, Turn, load
from harness.serving import KEY, cpu_seconds, hold
from harness.sides import Side, start_sides
from harness.workloads import ROOT


def bring_up(makes: Mapping[str, tuple[Any, tuple[Any, ...]]]) -> dict[str, Side]:
    """Start one after the other, and stop the processes of each until its first turn."""
    sides = start_sides(dict(makes), preload=[])
    try:
        for name, side in sides.items():
            side.ask("make")
            side.turns.append(side.ask("turn"))
            print(f"{name}: up after {side.turns[0]['deploy_s']:.1f} s", flush=True)
            hold(side.process.pid, still=True)
    except BaseException:
        finish(sides)
        raise
    return sides


def finish(sides: dict[str, Side]) -> None:
    """Take all down."""
    for side in sides.values():
        hold(side.process.pid, still=False)
        if side.process.is_alive() and side.turns:
            side.ask("end")
        side.process.terminate()
        side.process.join()


def taken(side: Side, url: str, asks: Sequence[Ask], concurrency: int) -> Turn:
    """One turn of a side that is stopped before and after it; what it has put off meanwhile is done first."""
    hold(side.process.pid, still=False)
    try:
        time.sleep(1.5)
        load(url, KEY, [Ask(asks[0].model, "Hello.", 4)], 1)
        before = cpu_seconds(side.process.pid)
        turn = load(url, KEY, asks, concurrency)
        return replace(turn, cpu_s=cpu_seconds(side.process.pid) - before)
    finally:
        hold(side.process.pid, still=True)


def rounds(
    urls: Mapping[str, str],
    sides: Mapping[str, Side],
    number: int,
    concurrency: int,
    asks: Callable[[int], Mapping[str, Sequence[Ask]]],
    told: Callable[[Turn], str],
) -> dict[str, list[Turn]]:
    """Turns of each side, in the order A B, B A, and so on.

    Args:
        urls: Where each side listens.
        sides: All of them.
        number: Rounds that are kept; one before them only warms up.
        concurrency: Requests at a time.
        asks: Tells what each side is asked in a round, 0 the one that warms up.
        told: What is printed of a turn.
    """
    turns: dict[str, list[Turn]] = {name: [] for name in sides}
    for one in range(1 + number):
        asked = asks(one)
        for name in list(sides)[:: 1 if one % 2 else -1]:
            turn = taken(sides[name], urls[name], asked[name], concurrency)
            if one:
                turns[name].append(turn)
        if one:
            seen = "   ".join(f"{name} {told(some[-1])}" for name, some in turns.items())
            print(f"round {one}: {seen}", flush=True)
    return turns


def texts() -> Iterator[str]:
    """Prompts of a few dozen tokens, none twice."""
    with (ROOT / "examples" / "debian-sections" / "train.jsonl").open(encoding="utf-8") as file:
        for line in file:
            yield f"Describe a Debian package that is summed up so: {json.loads(line)['text']}"


def check(turns: dict[str, list[Turn]], tokens: int) -> None:
    """Refuse to compare sides that did not do the same work."""
    for name, some in turns.items():
        counts = {answer.tokens for turn in some for answer in turn.answers}
        if counts != {tokens}:
            sys.exit(f"{name} gave answers of {counts} tokens instead of {tokens}")
