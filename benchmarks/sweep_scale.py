"""What a sweep itself costs per trial: trials that do nothing, on a simulated cluster of eight nodes.

luthier's sweep (random search, ASHA, its journal) takes turns with plain Ray Tune (the same search and scheduler, warm
processes as well, no journal) on one cluster. Each trial reports one value and ends. Seconds are of the whole sweep,
CPU-seconds and memory of the driver, which holds the controller.

    seconds_per_trial   luthier's, with the most trials (lower is better)
    growth              the same / that with the second most trials (1: trials cost the same however many there are)
    vs_plain_tune       seconds per trial, luthier / plain Ray Tune, with the most trials (lower is better)
    driver_bytes        bytes of the driver per further trial, between the two largest sweeps of luthier
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parent))

from harness.nothing import RATE, report_once, tell_once
from harness.sides import Measured, ratio_of, start_sides
from harness.sweeps import run_our_trials
from harness.workloads import ROOT, base_config

from luthier.config import RunConfig

NODES, CPUS_PER_NODE = 8, 2

Found = dict[int, dict[str, list[Measured]]]
"""By number of trials and side, what each turn told."""


def main() -> None:
    """Measure, print a table, and the figures as JSON on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2, help="sweeps of each side and size")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 100, 1000], help="trials of the sweeps")
    asked = parser.parse_args()
    os.chdir(ROOT)
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    try:
        for _ in range(NODES):
            cluster.add_node(num_cpus=CPUS_PER_NODE)
        cluster.wait_for_nodes()
        found = measure(cluster.address, asked.sizes, asked.rounds)
    finally:
        cluster.shutdown()
    show(found)
    print(json.dumps(figures_of(found, asked.rounds)))


def measure(address: str, sizes: list[int], rounds: int) -> Found:
    """Sweeps of every size, the sides in turns, after one of each that is thrown away."""
    order = [sizes[0], *(size for size in sizes for _ in range(rounds))]
    kinds = {"luthier": LuthierDriver, "plain tune": PlainDriver}
    found: Found = {size: {name: [] for name in kinds} for size in sizes}
    sides = start_sides({name: (kind, (address, order)) for name, kind in kinds.items()}, preload=[])
    try:
        for side in sides.values():
            side.ask("make")
        for turn, size in enumerate(order):
            for side in list(sides.values())[:: 1 if turn % 2 else -1]:
                told = side.ask("turn")
                if turn:
                    found[size][side.name].append(told)
                    print(f"{size:5} trials, {side.name}: {told['seconds']:.1f} s", flush=True)
    finally:
        for side in sides.values():
            side.process.terminate()
            side.process.join()
    return found


class Driver:
    """A side whose turn is one sweep of trials that do nothing.

    Args:
        address: Of the cluster.
        sizes: Trials of each turn's sweep.
    """

    def __init__(self, address: str, sizes: list[int]) -> None:
        self._address = address
        self._sizes = iter(sizes)

    def turn(self) -> Measured:
        """One sweep: its seconds, and the CPU-seconds and the bytes that this process took for it."""
        import ray

        size, me = next(self._sizes), psutil.Process()
        ray.init(address=self._address, log_to_driver=False, logging_level="ERROR")
        try:
            with tempfile.TemporaryDirectory() as directory:
                began, cpu, memory = time.perf_counter(), time.process_time(), me.memory_info().rss
                self.sweep(
                    base_config(f"tune.num_samples={size}", "tune.overrides={}", "train.num_workers=1"), Path(directory)
                )
                seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu
                return {"seconds": seconds, "cpu_s": cpu_s, "bytes": float(me.memory_info().rss - memory)}
        finally:
            ray.shutdown()

    def sweep(self, cfg: RunConfig, workdir: Path) -> None:
        """The sweep itself."""
        raise NotImplementedError

    def final(self) -> Measured:
        """Nothing."""
        return {}


class LuthierDriver(Driver):
    """``luthier.tuning``, with a training that does nothing."""

    def sweep(self, cfg: RunConfig, workdir: Path) -> None:
        """As ``tune()`` runs trials."""
        log = run_our_trials(cfg, workdir, workdir, report_once)
        ended = [trial.status for trial in log.record.trials.values()]
        assert cfg.tune is not None
        assert len(ended) == cfg.tune.num_samples and not set(ended) - {"finished", "stopped"}, ended


class PlainDriver(Driver):
    """Ray Tune by itself."""

    def sweep(self, cfg: RunConfig, workdir: Path) -> None:
        """The same sweep by Ray Tune's own search."""
        from ray import tune
        from ray.tune.schedulers import ASHAScheduler

        assert cfg.tune is not None
        os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # silent
        found = tune.Tuner(
            tune.with_resources(tell_once, {"cpu": 1}),
            param_space={RATE: tune.loguniform(3e-4, 3e-3)},
            tune_config=tune.TuneConfig(
                metric="eval_loss",
                mode="min",
                num_samples=cfg.tune.num_samples,
                scheduler=ASHAScheduler(),
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(name="plain", storage_path=str(workdir), verbose=0),
        ).fit()
        if found.errors:
            raise found.errors[0]
        assert len(found) == cfg.tune.num_samples


def figures_of(found: Found, rounds: int) -> list[dict[str, Any]]:
    """The figures, and every size's own in their settings."""
    fewer, most = sorted(found)[-2:]

    def each(size: int, side: str, what: str) -> list[float]:
        return [one[what] / size for one in found[size][side]]

    ours, before, plain = (
        each(most, "luthier", "seconds"),
        each(fewer, "luthier", "seconds"),
        each(most, "plain tune", "seconds"),
    )
    sizes = {name: [one["bytes"] for one in found[most][name]] for name in found[most]}
    less = statistics.median(one["bytes"] for one in found[fewer]["luthier"])
    further = [(one - less) / (most - fewer) for one in sizes["luthier"]]
    by_size = {
        side: {
            size: {what: rounded(statistics.median(each(size, side, what))) for what in ("seconds", "cpu_s", "bytes")}
            for size in found
        }
        for side in found[most]
    }
    settings = {
        "nodes": NODES,
        "cpus_per_node": CPUS_PER_NODE,
        "cores": os.cpu_count(),
        "rounds": rounds,
        "per_trial": by_size,
    }
    median = (statistics.median(ours), min(ours), max(ours))
    memory = (statistics.median(further), min(further), max(further))
    ratios = {
        "seconds_per_trial": median,
        "growth": ratio_of(ours, before),
        "vs_plain_tune": ratio_of(ours, plain),
        "driver_bytes": memory,
    }
    return [
        {"name": name, "ratio": rounded(a), "low": rounded(b), "high": rounded(c), "target": None, "settings": settings}
        for name, (a, b, c) in ratios.items()
    ]


def show(found: Found) -> None:
    """A table for people."""
    print(f"\n{'trials':>6} {'side':12} {'ms per trial':>12} {'driver CPU ms':>14} {'driver KiB':>11}")
    for size, sides in found.items():
        for name, told in sides.items():
            seconds, cpu_s, held = (
                statistics.median(one[what] for one in told) / size for what in ("seconds", "cpu_s", "bytes")
            )
            print(f"{size:6} {name:12} {1000 * seconds:12.1f} {1000 * cpu_s:14.1f} {held / 1024:11.1f}")


def rounded(value: float) -> float:
    """To four places."""
    return round(value, 4)


if __name__ == "__main__":
    main()
