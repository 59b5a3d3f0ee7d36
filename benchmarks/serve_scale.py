"""How long an endpoint takes to come, and a second engine under a step of load.

A round starts bare ``vllm serve`` and luthier's whole stack in turn, each from nothing, and stops it once it has answered;
the order changes from round to round. Then 16 clients come to our stack at once, whose ``serve.num_replicas`` is ``[1, 2]``,
and leave when two engines have been there for a while; it scales down before it is stopped.

    cold_start        seconds from nothing to a first answer, ours / bare (lower is better)
    scale_up          seconds from the step to a second engine that takes requests / ours from nothing (lower is better)
    step_throughput   tokens a second under the step, two engines / one (higher is better)

Every request has to be answered whole. Where both engines share the cores that one had, the last is about 1.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import httpx
from harness.load import Ask, Turn, load
from harness.serving import KEY, MODEL, BareSide, StackSide, serve_config
from harness.sides import Side, paired_ratio, start_sides
from harness.turns import finish, texts
from harness.workloads import ROOT

from luthier.ports import free_port
from luthier.precision import served_dtype

CONCURRENCY = 16
TURN_REQUESTS = 32
PATIENCE_S = 240.0
PACE = ["serve.autoscale.target_ongoing_requests=4", "serve.autoscale.downscale_delay_s=5"]
SETTINGS = ["serve.adapters=listed", "serve.num_replicas=[1,2]", *PACE]
Told = dict[str, float]


@dataclass
class Step:
    """A step of load on our stack.

    Attributes:
        scale_up_s: From the step to the second engine.
        scale_down_s: From its end to one engine again.
        one: Turns that ended before the second engine began to start.
        starting: Turns meanwhile.
        two: Turns with both.
    """

    scale_up_s: float = 0.0
    scale_down_s: float = 0.0
    one: list[Turn] = field(default_factory=list)
    starting: list[Turn] = field(default_factory=list)
    two: list[Turn] = field(default_factory=list)


class Engines:
    """Follows the engines of an endpoint, by what ``GET /v1/status`` tells.

    Args:
        base_url: Ends with ``/v1``.
    """

    def __init__(self, base_url: str) -> None:
        self._url = f"{base_url}/status"
        self.running = 1
        """Engines that take requests."""
        self.starting = False
        """Whether another is on its way."""
        self.two_at = 0.0
        """When a second one first took requests, on the clock of :func:`time.perf_counter`."""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow)

    def __enter__(self) -> Engines:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _follow(self) -> None:
        with httpx.Client(headers={"authorization": f"Bearer {KEY}"}, timeout=30.0) as client:
            while not self._ended.wait(0.5):
                told = client.get(self._url).raise_for_status().json()["deployments"]
                engines = [one["replicas"] for one in told if one["engine"]]
                if not engines:  # Ray Serve was too busy to tell
                    continue
                self.running = sum(replicas.get("RUNNING", 0) for replicas in engines)
                self.starting = any(replicas.get("STARTING", 0) for replicas in engines)
                if self.running == 2 and not self.two_at:
                    self.two_at = time.perf_counter()


def main() -> None:
    """Measure in turns, print a table, and the figures as JSON on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="starts of each side, and steps")
    parser.add_argument("--tokens", type=int, default=32, help="tokens of an answer")
    parser.add_argument("--turns", type=int, default=4, help="turns of 32 requests with both engines")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the config")
    options = parser.parse_args()
    os.chdir(ROOT)
    cold: dict[str, list[Told]] = {"bare": [], "ours": []}
    steps: list[Step] = []
    prompts = texts()
    with tempfile.TemporaryDirectory() as directory:
        for number in range(options.rounds):
            for name in list(cold)[:: 1 if number % 2 else -1]:
                step = one_side(name, prompts, cold[name], options, Path(directory))
                if step is not None:
                    steps.append(step)
            told = "   ".join(f"{name} {some[-1]['first_answer_s']:.1f} s" for name, some in cold.items())
            print(f"round {number + 1}: from nothing {told}   second engine {steps[-1].scale_up_s:.1f} s", flush=True)
    show(cold, steps)
    settings = {
        "model": "SmolLM2-135M-Instruct",
        "cores": os.cpu_count(),
        "concurrency": CONCURRENCY,
        "tokens_of_an_answer": options.tokens,
        "rounds": options.rounds,
        "overrides": [*PACE, *options.set],
    }
    print(json.dumps(list(figures(cold, steps, settings))))


def one_side(name: str, prompts: Iterator[str], cold: list[Told], options: Any, directory: Path) -> Step | None:
    """Start one side, hear its first answer, load ours, and stop it."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/v1"
    overrides = [*SETTINGS, f"registry.uri={directory}/registry", *options.set]
    if name == "ours":
        make: Any = (StackSide, (port, overrides, {}))
    else:
        make = (BareSide, (port, overrides, dtype_of(overrides), str(directory / "bare.log")))
    began = time.perf_counter()
    sides = start_sides({name: make}, preload=[])
    try:
        (side,) = sides.values()
        side.ask("make")
        up_s = time.perf_counter() - began
        load(url, KEY, [Ask(MODEL, next(prompts), 1)], 1)
        first_answer_s = time.perf_counter() - began
        side.turns.append(side.ask("turn"))
        cold.append({"first_answer_s": first_answer_s, "up_s": up_s, **_seconds(side)})
        return step_of(url, prompts, options) if name == "ours" else None
    finally:
        finish(sides)


def dtype_of(overrides: list[str]) -> str:
    """What our engine computes in, which bare vLLM is told."""
    return str(served_dtype(serve_config(8000, *overrides).serve.dtype, "cpu"))


def _seconds(side: Side) -> Told:
    return {name: value for name, value in side.turns[0].items() if name.endswith("_s")}


def step_of(url: str, prompts: Iterator[str], options: Any) -> Step:
    """Put load on an endpoint with one engine until two have taken it for some turns, then take it away.

    Raises:
        SystemExit: No second engine came, or it did not go.
    """
    step = Step()
    with Engines(url) as engines:
        began = time.perf_counter()
        while len(step.two) < options.turns:
            if time.perf_counter() - began > PATIENCE_S and not engines.two_at:
                sys.exit(f"there was no second engine after {PATIENCE_S:g} s under load")
            before = engines.running, engines.starting
            asks = [Ask(MODEL, text, options.tokens) for text in islice(prompts, TURN_REQUESTS)]
            turn = load(url, KEY, asks, CONCURRENCY)
            if {answer.tokens for answer in turn.answers} != {options.tokens}:
                sys.exit("a request got another number of tokens than it asked for")
            if before[0] == 2:
                step.two.append(turn)
            elif before == (engines.running, engines.starting) == (1, False):
                step.one.append(turn)
            else:
                step.starting.append(turn)
        step.scale_up_s = engines.two_at - began
        ended = time.perf_counter()
        while engines.running != 1:
            if time.perf_counter() - ended > PATIENCE_S:
                sys.exit(f"the second engine was still there {PATIENCE_S:g} s after the load")
            time.sleep(0.2)
        step.scale_down_s = time.perf_counter() - ended
    return step


def speed(turns: list[Turn]) -> float:
    """Tokens a second, the median of turns."""
    return statistics.median(turn.tokens_per_s for turn in turns)


def show(cold: dict[str, list[Told]], steps: list[Step]) -> None:
    """Tables for people: medians."""
    print("\nfrom nothing, seconds")
    for name, some in cold.items():
        parts = {part: statistics.median(one[part] for one in some) for part in some[0]}
        print(f"  {name:5} " + "   ".join(f"{part} {value:.1f}" for part, value in parts.items()))
    print(f"\nstep of {CONCURRENCY} clients            tok/s  first ms")
    for title in ("one", "starting", "two"):
        turns = [turn for step in steps for turn in getattr(step, title)]
        first = statistics.median(turn.first_ms for turn in turns)
        print(f"  {title + ' engine' + 's' * (title == 'two'):26} {speed(turns):8.1f} {first:9.1f}")
    downs = statistics.median(step.scale_down_s for step in steps)
    print(f"  scaled up after {statistics.median(step.scale_up_s for step in steps):.1f} s, down after {downs:.1f} s\n")


def figures(cold: dict[str, list[Told]], steps: list[Step], settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The ratios, with the seconds behind them."""
    starts = {name: [one["first_answer_s"] for one in some] for name, some in cold.items()}
    pairs = {
        "cold_start": (starts["ours"], starts["bare"]),
        "scale_up": ([step.scale_up_s for step in steps], starts["ours"]),
        "step_throughput": ([speed(step.two) for step in steps], [speed(step.one) for step in steps]),
    }
    told: dict[str, dict[str, Any]] = {
        "cold_start": {"parts_s": {name: _medians(some) for name, some in cold.items()}},
        "scale_up": {
            "scale_up_s": _rounded(step.scale_up_s for step in steps),
            "scale_down_s": _rounded(step.scale_down_s for step in steps),
        },
        "step_throughput": {
            "tokens_per_s": {title: _rounded(speed(getattr(step, title)) for step in steps) for title in ("one", "two")}
        },
    }
    for name, (ours, theirs) in pairs.items():
        ratio, low, high = (round(value, 3) for value in paired_ratio(ours, theirs))
        head = {"name": name, "ratio": ratio, "low": low, "high": high, "target": None}
        yield {**head, "settings": {**settings, **told[name]}}


def _medians(some: list[Told]) -> Told:
    return {part: round(statistics.median(one[part] for one in some), 1) for part in some[0]}


def _rounded(values: Iterator[float]) -> list[float]:
    return [round(value, 1) for value in values]


if __name__ == "__main__":
    main()
