"""Many adapters on one engine, against the base model alone.

Each request asks for the next adapter in turn, 16 at a time. The base alone is an endpoint of its own, whose engine holds no
adapters. Both are up, and take turns as in ``serve_overhead``: the one that waits is stopped.

    adapters_1, _4, _16, _64   tokens a second, that many adapters in turn / base alone (higher is better)

``--slots 4 --slots 16`` compares values of ``serve.max_loras``; the first is the one that the names above tell of.
``--set KEY=VALUE`` changes another setting of the endpoint that holds adapters.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from harness.adapters import register_adapters
from harness.load import Ask, Turn
from harness.serving import MODEL, StackSide, family
from harness.sides import Side, paired_ratio
from harness.turns import bring_up, check, finish, rounds, texts
from harness.workloads import ROOT

from luthier.config.serve import ServeConfig
from luthier.ports import free_port

CONCURRENCY = 16
BASE = "base alone"
TARGETS = {1: None, 4: None, 16: None, 64: None}


def main() -> None:
    """Measure in turns, print a table, and the figures as JSON on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="measured turns of each side")
    parser.add_argument("--tokens", type=int, default=32, help="tokens of an answer")
    parser.add_argument("--requests", type=int, default=32, help="requests of a turn")
    parser.add_argument("--adapters", type=int, nargs="*", default=[1, 4, 16, 64], help="adapters in turn")
    parser.add_argument("--slots", type=int, action="append", help="serve.max_loras")
    parser.add_argument("--rank", type=int, default=8, help="rank of the adapters")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the config")
    options = parser.parse_args()
    slots = options.slots or [ServeConfig().max_loras]
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as directory:
        refs = register_adapters(f"{directory}/registry", max(options.adapters), options.rank)
        print(f"{len(refs)} adapters are registered", flush=True)
        urls, sides = start(slots, options.set, directory)
        try:
            turns = measure(urls, sides, refs, options)
            memory = {name: resident_gb(side) for name, side in sides.items()}
        finally:
            finish(sides)
    settings = {
        "model": "SmolLM2-135M-Instruct",
        "cores": os.cpu_count(),
        "concurrency": CONCURRENCY,
        "rank": options.rank,
        "tokens_of_an_answer": options.tokens,
        "requests_of_a_turn": options.requests,
        "rounds": options.rounds,
        "resident_gb": memory,
        "overrides": options.set,
    }
    print(json.dumps(list(figures(turns, slots, settings))))


def start(slots: list[int], overrides: list[str], directory: str) -> tuple[dict[str, str], dict[str, Side]]:
    """Bring an endpoint up for each number of slots, and one of the base alone."""
    settings = {
        BASE: [f"registry.uri={directory}/empty", "serve.adapters=listed"],
        **{
            f"{one} slots": [f"registry.uri={directory}/registry", f"serve.max_loras={one}", *overrides]
            for one in slots
        },
    }
    ports = {name: free_port() for name in settings}
    sides = bring_up({name: (StackSide, (ports[name], some, {})) for name, some in settings.items()})
    return {name: f"http://127.0.0.1:{port}/v1" for name, port in ports.items()}, sides


def measure(
    urls: dict[str, str], sides: dict[str, Side], refs: list[str], options: Any
) -> dict[int, dict[str, list[Turn]]]:
    """Turns of each side by the number of adapters; ``(base)`` are requests for the base on an endpoint with adapters."""
    found: dict[int, dict[str, list[Turn]]] = {}
    prompts = texts()
    for number in (0, *options.adapters):
        names = {name: cycle([MODEL] if name == BASE or not number else refs[:number]) for name in sides}

        def asks(one: int, number: int = number, names: dict[str, Any] = names) -> dict[str, list[Ask]]:
            num_requests = options.requests if one else max(CONCURRENCY, number)  # the first round loads the adapters
            asked = list(islice(prompts, num_requests))
            return {name: [Ask(next(some), text, options.tokens) for text in asked] for name, some in names.items()}

        print(f"{number} adapters:", flush=True)
        turns = rounds(urls, sides, options.rounds, CONCURRENCY, asks, lambda turn: f"{turn.tokens_per_s:6.1f} tok/s")
        check(turns, options.tokens)
        show(number, turns)
        found[number] = turns
    return found


def show(number: int, turns: dict[str, list[Turn]]) -> None:
    """A table for people."""
    title = f"{number} adapters in turn" if number else "the base on each"
    print(f"\n{title:22} {'tok/s':>8} {'low':>8} {'high':>8} {'first ms':>9} {'to base':>8}")
    base = [turn.tokens_per_s for turn in turns[BASE]]
    for name, some in turns.items():
        speeds = [turn.tokens_per_s for turn in some]
        first = statistics.median(turn.first_ms for turn in some)
        ratio, *_ = paired_ratio(speeds, base)
        print(
            f"{name:22} {statistics.median(speeds):8.1f} {min(speeds):8.1f} {max(speeds):8.1f} {first:9.1f} {ratio:8.3f}"
        )
    print(flush=True)


def resident_gb(side: Side) -> float:
    """Memory of a side's processes; pages that they share are divided among them."""
    total = 0.0
    for process in family(side.process.pid):
        rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
        total += next(int(line.split()[1]) for line in rollup if line.startswith("Pss:")) * 1024
    return round(total / 1e9, 2)


def figures(
    turns: dict[int, dict[str, list[Turn]]], slots: list[int], settings: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """The ratios, those of further numbers of slots under their names."""
    for number in slots:
        side = f"{number} slots"
        suffix = "" if number == slots[0] else f" ({side})"
        for adapters, some in turns.items():
            speeds = {name: [turn.tokens_per_s for turn in some[name]] for name in (side, BASE)}
            ratio, low, high = (round(value, 3) for value in paired_ratio(speeds[side], speeds[BASE]))
            told = {"max_loras": number, "tokens_per_s": {n: round(statistics.median(v), 1) for n, v in speeds.items()}}
            name = f"adapters_{adapters}" if adapters else "base_beside_adapters"
            head = {"name": f"{name}{suffix}", "ratio": ratio, "low": low, "high": high}
            yield {**head, "target": TARGETS.get(adapters), "settings": {**settings, **told}}


if __name__ == "__main__":
    main()
