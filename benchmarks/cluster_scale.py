"""What more nodes cost: clusters of 1, 8 and 32 simulated nodes on this machine, in turns.

Each cluster is started, asked, and stopped; an odd round takes them in the opposite order. A node here is Ray's daemon with
its two agents and logical CPUs; all share this machine's processors, so the start of many is slower than on machines of
their own. Times are of the driver.

    gang            seconds until a gang of one bundle per node is placed, most nodes / one node (lower is better)
    gang_s          the same in seconds, with the most nodes
    start           seconds until a worker process runs on every node, per node, most nodes / one node
    node_mb         megabytes of memory per further node, its daemon and agents together
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parent))

from harness.rounds import Found, figures_of_rounds, medians_of

CPUS_PER_NODE = 2
GANGS = 5
MB = 1e6


def main() -> None:
    """Measure, print a table, and the figures as JSON on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 8, 32], help="sizes of the clusters")
    parser.add_argument("--rounds", type=int, default=2, help="clusters of each size")
    asked = parser.parse_args()
    found: Found = {size: [] for size in asked.nodes}
    for number in range(asked.rounds):
        for size in asked.nodes[:: -1 if number % 2 else 1]:
            found[size].append(told := look_at(size))
            print(f"{size:3} nodes: " + "  ".join(f"{key} {value:.3f}" for key, value in told.items()), flush=True)
    print(json.dumps(figures_of(found)))


def look_at(num_nodes: int) -> dict[str, float]:
    """One cluster of a size, from its start to its end."""
    import ray
    from ray.cluster_utils import Cluster

    began = time.perf_counter()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": CPUS_PER_NODE})
    try:
        for _ in range(num_nodes - 1):
            cluster.add_node(wait=False, num_cpus=CPUS_PER_NODE)
        cluster.wait_for_nodes(timeout=300)
        join_s = time.perf_counter() - began
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        try:
            return {
                "join_s": join_s,
                "start_s": started_everywhere(),
                "gang_s": placed(num_nodes),
                "memory_mb": memory_of_cluster() / MB,
            }
        finally:
            ray.shutdown()
    finally:
        cluster.shutdown()


def started_everywhere() -> float:
    """Seconds until a task has run on every node, each in a process that is started for it."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

    def where() -> str:
        return str(ray.get_runtime_context().get_node_id())

    here = ray.remote(num_cpus=0)(where)
    nodes = [node["NodeID"] for node in ray.nodes()]
    began = time.perf_counter()
    told = ray.get([here.options(scheduling_strategy=On(node, soft=False)).remote() for node in nodes], timeout=300)
    if told != nodes:
        sys.exit("a task ran on another node than its own")
    return time.perf_counter() - began


def placed(num_nodes: int) -> float:
    """Median seconds until a gang of one bundle per node is placed, of several in turn."""
    from ray.util.placement_group import placement_group, remove_placement_group

    seconds = []
    for _ in range(GANGS):
        began = time.perf_counter()
        group = placement_group([{"CPU": float(CPUS_PER_NODE)}] * num_nodes, strategy="STRICT_SPREAD")
        if not group.wait(timeout_seconds=300):
            sys.exit(f"a gang of {num_nodes} bundles was not placed on {num_nodes} nodes within 300 s")
        seconds.append(time.perf_counter() - began)
        remove_placement_group(group)
        time.sleep(0.5)
    return statistics.median(seconds)


def memory_of_cluster() -> int:
    """Bytes that only this process's descendants hold, all together; one that ends meanwhile holds none."""
    held = 0
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            held += process.memory_full_info().uss
    return held


def figures_of(found: Found) -> list[dict[str, Any]]:
    """One object for each figure; low and high are the extremes of the rounds."""
    least, most = min(found), max(found)
    pairs = list(zip(found[least], found[most], strict=True))
    figures = {
        "gang": [large["gang_s"] / small["gang_s"] for small, large in pairs],
        "gang_s": [large["gang_s"] for _, large in pairs],
        "start": [large["start_s"] / most / (small["start_s"] / least) for small, large in pairs],
        "node_mb": [(large["memory_mb"] - small["memory_mb"]) / (most - least) for small, large in pairs],
    }
    settings = {"cpus_per_node": CPUS_PER_NODE, "rounds": len(pairs), "medians_by_nodes": medians_of(found, 4)}
    return figures_of_rounds(figures, settings)


if __name__ == "__main__":
    main()
