"""A run on a cluster of three nodes, of which one dies, returns, and is drained. Prints what happened as JSON.

A process of its own, because a process has one Ray session and the tests' is another.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

from luthier.cluster.environment import apply_environment
from luthier.trainers.fit import train
from luthier.trainers.inprocess import make_job
from luthier.trainers.sample_log import read_samples
from tests.chaos.conftest import make_config_at
from tests.chaos.harness import Strike, striking


def main(data: Path, base_model_dir: Path, directory: Path, strategy: dict[str, Any]) -> None:
    """Train on ``[1, 2]`` workers while a node goes, comes and is drained."""
    cfg = make_config_at(
        data,
        directory,
        **strategy,
        num_workers=(1, 2),
        resources_per_worker={"CPU": 1, "seat": 1},
        max_steps=600,  # Ray looks for machines every 20 s; on slow cores that is some 50 steps, on fast ones 300
        save_steps=20,
        eval_steps=10_000,
        max_failures=1,  # spent on the node that is lost, so that the run ends if the drain counts too
        elastic_resize_monitor_interval_s=3.0,
    )
    apply_environment(cfg)
    # One worker a node: workers ask for what each of two nodes has once.
    head = {"num_cpus": 2, "resources": {"seat": 1}}
    # Nodes are also added by the thread that strikes, which may not set the handlers of signals that Ray would.
    cluster = Cluster(initialize_head=True, shutdown_at_exit=False, head_node_args=head)
    ray.init(address=cluster.address, log_to_driver=False, namespace="luthier")
    make_job(cfg, base_model_dir, directory / "run")  # tokenises
    nodes = [cluster.add_node(num_cpus=2, resources={"seat": 1})]
    cluster.wait_for_nodes()
    told: dict[str, Any] = {}

    def lose() -> None:
        cluster.remove_node(nodes.pop(), allow_graceful=False)

    def bring_back() -> None:
        nodes.append(cluster.add_node(num_cpus=2, resources={"seat": 1}))

    def drain() -> None:
        told["drained_after"] = max(read_samples(directory / "run"))
        command = ["drain-node", "--address", cluster.address, "--node-id", nodes[0].node_id]
        reason = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "test"]
        deadline = ["--deadline-remaining-seconds", "20"]
        ray_command = str(Path(sys.executable).with_name("ray"))
        subprocess.run([ray_command, *command, *reason, *deadline], check=True, capture_output=True)
        steps_then = told["drained_after"]
        time.sleep(8)
        found = (int(path.parent.name[5:]) for path in (directory / "run").glob("checkpoints/step-*/checkpoint.json"))
        told["saved_steps"] = sorted(found)
        assert steps_then
        time.sleep(14)
        cluster.remove_node(nodes.pop(), allow_graceful=False)

    strikes = [Strike(30, lose), Strike(80, bring_back), Strike(150, drain)]
    try:
        with striking(directory / "run", *strikes):
            train(cfg, base_model_dir=base_model_dir, workdir=directory / "run")
    finally:
        ray.shutdown()
        cluster.shutdown()
    told["resumed_from"] = [strike.resumed_from for strike in strikes]
    told["next_step_s"] = [strike.next_step_s for strike in strikes]
    print("TOLD " + json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), json.loads(sys.argv[4]))
