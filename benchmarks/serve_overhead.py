"""luthier's whole serving stack against bare ``vllm serve``: same model, same settings of the engine, same requests.

Both are up; one is under load at a time, and the other's processes are stopped (SIGSTOP) meanwhile, as an idle cluster
uses CPU too. They take turns, in the order A B, B A, and so on; each turn answers other prompts, the same for all sides.
The client streams greedy chat completions of a fixed number of tokens. It runs on this machine, and on few cores takes
time from either side alike.

    throughput_c1, _c4, _c16   tokens a second, ours / bare, with so many requests at a time (higher is better)
    ttft_added_ms              mean milliseconds until the first piece of text, ours - bare, one request at a time

``--also NAME`` measures further ways of running our stack, or Ray's own endpoint, in the same turns; ``--list`` tells them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from harness.load import Ask, Turn
from harness.serving import MODEL, BareSide, RaySide, StackSide, cpu_seconds, hold
from harness.sides import Side, paired_difference, paired_ratio
from harness.turns import bring_up, check, finish, rounds, texts
from harness.workloads import ROOT

from luthier.ports import free_port

REQUESTS = {1: 6, 4: 12, 16: 32}
"""Requests at a time, and requests of a turn."""

TARGETS = {"throughput": 0.95, "ttft_added_ms": 10.0}

SETTINGS = ["serve.adapters=listed"]
"""The base model alone, so that the engine holds no adapters on either side."""

# Ways of running our stack, as the variables that set them.
WAYS: dict[str, dict[str, str]] = {
    "ours": {},
    "python proxy": {"RAY_SERVE_ENABLE_HA_PROXY": "0"},
    "threads": {"RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "1"},
    "optimized": {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"},
    "nice 0": {"RAY_worker_niceness": "0"},
}

# Ray's own endpoint, which asks for no key and knows no registry.
RAYS: dict[str, dict[str, str]] = {
    "ray direct streaming": {"RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING": "1"},
}


def main() -> None:
    """Measure in turns, print a table, and the figures as JSON on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="measured turns of each side")
    parser.add_argument("--tokens", type=int, default=48, help="tokens of an answer")
    parser.add_argument("--concurrency", type=int, nargs="*", default=list(REQUESTS), help="requests at a time")
    parser.add_argument("--also", action="append", default=[], choices=[*WAYS, *RAYS], help="a further side")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the config")
    parser.add_argument("--list", action="store_true", help="print the ways")
    options = parser.parse_args()
    if options.list:
        print(
            "\n".join(
                f"{name:20} {' '.join(f'{k}={v}' for k, v in env.items())}" for name, env in (WAYS | RAYS).items()
            )
        )
        return
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as directory:
        ways = ["ours", *options.also]
        urls, sides = start(ways, [*SETTINGS, f"registry.uri={directory}/registry", *options.set], Path(directory))
        try:
            idle = idle_cpu(sides)
            turns = measure(urls, sides, options)
        finally:
            finish(sides)
    settings = {
        "model": "SmolLM2-135M-Instruct",
        "cores": os.cpu_count(),
        "tokens_of_an_answer": options.tokens,
        "rounds": options.rounds,
        "idle_cpu": idle,
        **{f"{name}_started_in_s": round(side.turns[0]["deploy_s"], 1) for name, side in sides.items()},
        "overrides": options.set,
    }
    print(json.dumps(list(figures(turns, settings))))


def start(ways: Sequence[str], overrides: list[str], directory: Path) -> tuple[dict[str, str], dict[str, Side]]:
    """Bring all endpoints up, one after the other.

    Returns:
        Where each listens, and its side.
    """
    ports = {name: free_port() for name in ("bare", *ways)}
    sides = bring_up(
        {
            name: (StackSide, (ports[name], overrides, WAYS[name]))
            if name in WAYS
            else (RaySide, (ports[name], overrides, RAYS[name]))
            for name in ways
        }
    )
    dtype = "bfloat16" if sides["ours"].turns[0]["bfloat16"] else "float32"
    print(f"ours computes in {dtype}", flush=True)
    try:
        bare = bring_up({"bare": (BareSide, (ports["bare"], overrides, dtype, str(directory / "bare.log")))})
    except BaseException:
        finish(sides)
        raise
    sides |= bare
    return {name: f"http://127.0.0.1:{port}/v1" for name, port in ports.items()}, sides


def idle_cpu(sides: dict[str, Side], seconds: float = 4.0) -> dict[str, float]:
    """Cores that each side keeps busy while nobody asks it."""
    found = {}
    for name, side in sides.items():
        hold(side.process.pid, still=False)
        time.sleep(1.5)
        before = cpu_seconds(side.process.pid)
        time.sleep(seconds)
        found[name] = round((cpu_seconds(side.process.pid) - before) / seconds, 3)
        hold(side.process.pid, still=True)
    return found


def measure(urls: dict[str, str], sides: dict[str, Side], options: Any) -> dict[int, dict[str, list[Turn]]]:
    """Turns of each side, for each number of requests at a time."""
    found: dict[int, dict[str, list[Turn]]] = {}
    prompts = texts()
    for concurrency in options.concurrency:

        def asks(one: int, concurrency: int = concurrency) -> dict[str, list[Ask]]:
            num_requests = REQUESTS[concurrency] if one else concurrency
            asked = [Ask(MODEL, next(prompts), options.tokens) for _ in range(num_requests)]
            return dict.fromkeys(sides, asked)

        print(f"{concurrency} at a time:", flush=True)
        turns = rounds(urls, sides, options.rounds, concurrency, asks, speed_and_first)
        found[concurrency] = turns
        check(turns, options.tokens)
        show(concurrency, turns)
    return found


def speed_and_first(turn: Turn) -> str:
    """A turn in a few words."""
    return f"{turn.tokens_per_s:6.1f} tok/s {turn.first_ms:6.1f} ms"


def same_texts(ours: Sequence[Turn], bare: Sequence[Turn]) -> float:
    """Share of the answers that are the same. Requests that are decoded together round otherwise than one alone."""
    pairs = [
        (a.text, b.text) for x, y in zip(ours, bare, strict=True) for a, b in zip(x.answers, y.answers, strict=True)
    ]
    return sum(a == b for a, b in pairs) / len(pairs)


def cpu_ms(turns: Sequence[Turn]) -> float:
    """CPU time of a token, of all processes of a side; vLLM's own core waits busily where its worker is another process."""
    return 1000 * sum(turn.cpu_s for turn in turns) / sum(answer.tokens for turn in turns for answer in turn.answers)


def show(concurrency: int, turns: dict[str, list[Turn]]) -> None:
    """A table for people."""
    print(
        f"\n{f'{concurrency} at a time':20} {'tok/s':>8} {'low':>8} {'high':>8} {'first ms':>9} {'to bare':>8} {'added ms':>9} {'CPU ms':>8}"
    )
    speeds = {name: [turn.tokens_per_s for turn in some] for name, some in turns.items()}
    firsts = {name: [turn.first_ms for turn in some] for name, some in turns.items()}
    for name, some in speeds.items():
        ratio, *_ = paired_ratio(some, speeds["bare"])
        added, *_ = paired_difference(firsts[name], firsts["bare"])
        print(
            f"{name:20} {statistics.median(some):8.1f} {min(some):8.1f} {max(some):8.1f}"
            f" {statistics.median(firsts[name]):9.1f} {ratio:8.3f} {added:9.1f} {cpu_ms(turns[name]):8.2f}"
        )
    print(flush=True)


def figures(turns: dict[int, dict[str, list[Turn]]], settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The ratios and differences of our stack, then those of the other ways under their names."""
    ways = [name for name in next(iter(turns.values())) if name != "bare"]
    for way in ways:
        suffix = "" if way == "ours" else f" ({way})"
        for concurrency, some in turns.items():
            speeds = {name: [turn.tokens_per_s for turn in some[name]] for name in (way, "bare")}
            ratio, low, high = (round(value, 3) for value in paired_ratio(speeds[way], speeds["bare"]))
            told = {
                "tokens_per_s": {name: round(statistics.median(values), 1) for name, values in speeds.items()},
                "cpu_ms_of_a_token": {name: round(cpu_ms(some[name]), 2) for name in (way, "bare")},
                "same_texts": round(same_texts(some[way], some["bare"]), 3),
            }
            head = {"name": f"throughput_c{concurrency}{suffix}", "ratio": ratio, "low": low, "high": high}
            yield {**head, "target": TARGETS["throughput"], "settings": {**settings, **told}}
        for concurrency, some in turns.items():
            firsts = {name: [turn.first_ms for turn in some[name]] for name in (way, "bare")}
            added, low, high = (round(value, 1) for value in paired_difference(firsts[way], firsts["bare"]))
            at = "" if concurrency == 1 else f"_c{concurrency}"
            means = {name: round(statistics.fmean(values), 1) for name, values in firsts.items()}
            head = {"name": f"ttft_added_ms{at}{suffix}", "ratio": added, "low": low, "high": high}
            target = TARGETS["ttft_added_ms"] if concurrency == 1 else None
            yield {**head, "target": target, "settings": {**settings, "unit": "ms", "first_ms": means}}


if __name__ == "__main__":
    main()
