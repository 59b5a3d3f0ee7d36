"""What a running cluster with an autoscaler tells a plan; the autoscaler starts fake nodes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from luthier.cluster import Supply, plan
from luthier.cluster.planning.asking import ask_supply
from luthier.cluster.planning.supply import combined
from luthier.config import RunConfig
from luthier.ports import free_port

pytestmark = pytest.mark.integration

SCALING = {
    "cluster_name": "fake",
    "max_workers": 2,
    "idle_timeout_minutes": 5,
    "upscaling_speed": 1.0,
    "provider": {"type": "fake_multinode"},
    "auth": {},
    "file_mounts": {},
    "cluster_synced_files": [],
    "file_mounts_sync_continuously": False,
    "rsync_exclude": [],
    "rsync_filter": [],
    "docker": {},
    "initialization_commands": [],
    "setup_commands": [],
    "head_setup_commands": [],
    "worker_setup_commands": [],
    "head_start_ray_commands": [],
    "worker_start_ray_commands": [],
    "available_node_types": {
        "head": {"resources": {"CPU": 2}, "node_config": {}, "max_workers": 0},
        "wide": {"resources": {"CPU": 4}, "node_config": {}, "min_workers": 0, "max_workers": 2},
    },
    "head_node_type": "head",
}


def config(num_workers: int, num_cpus: int) -> RunConfig:
    train = {"num_workers": num_workers, "resources_per_worker": {"CPU": num_cpus}}
    model = {"model_name_or_path": "no/model"}
    data = [{"train": "none.jsonl"}]
    return RunConfig.model_validate({"name": "demo", "offline": True, "model": model, "datasets": data, "train": train})


@pytest.fixture(scope="module")
def scaling_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scaling") / "cluster.yaml"
    path.write_text(json.dumps(SCALING))
    return path


@pytest.fixture(scope="module")
def addresses(scaling_file: Path) -> Iterator[tuple[str, str]]:
    """The control store's address and the dashboard's, of a head of our own."""
    directory = tempfile.mkdtemp(prefix="ray-")  # short: Ray's socket paths must stay under 107 bytes
    port, dashboard = free_port(), free_port()
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--disable-usage-stats"]
    command += ["--node-ip-address=127.0.0.1", "--num-cpus=2", f"--temp-dir={directory}", f"--port={port}"]
    command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--autoscaling-config={scaling_file}"]
    ports = ("--ray-client-server-port", "--dashboard-agent-listen-port", "--metrics-export-port")
    command += [f"{option}={free_port()}" for option in ports]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_") or k.startswith("RAY_AUTH_")}
    environment |= {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    # A session that an earlier test opened has switched token auth on in this process: the head must match.
    environment.setdefault("RAY_AUTH_MODE", "disabled")
    with (Path(directory) / "head.log").open("wb") as log:
        head = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        yield f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}"
    finally:
        head.terminate()
        head.wait(timeout=60)
        shutil.rmtree(directory, ignore_errors=True)


def asked(address: str) -> Supply:
    """The cluster's answer, once its parts are up."""
    deadline = time.monotonic() + 120
    while True:
        try:
            supply = ask_supply(config(1, 1), address)
            if supply.free is not None and supply.nodes:
                return supply
        except Exception:  # parts of a head that starts answer in stages
            if time.monotonic() > deadline:
                raise
        assert time.monotonic() < deadline, "the cluster did not answer as it should"
        time.sleep(1)


def check(address: str, scaling_file: Path) -> None:
    """What a cluster and the file of its autoscaler tell, in a process that has no session of another cluster open."""
    supply = asked(address)
    assert [node["CPU"] for node in supply.nodes] == [2.0]
    assert supply.free is not None and supply.free[0]["CPU"] == 2.0
    assert plan(config(2, 1), supply=supply).scheduling[0].when == "now"
    assert plan(config(2, 4), supply=supply).scheduling[0].when == "unknown"  # the cluster does not tell its limits
    told = combined(supply, scaling_file)
    assert plan(config(2, 4), supply=told).scheduling[0].when == "after autoscaling"
    assert plan(config(3, 4), supply=told).scheduling[0].when == "never"
    assert plan(config(1, 8), supply=told).scheduling[0].when == "never"


@pytest.mark.parametrize("place", [0, 1], ids=["control store", "dashboard"])
def test_a_live_cluster_and_its_autoscalers_file_tell_when_a_gang_fits(
    addresses: tuple[str, str], scaling_file: Path, place: int
) -> None:
    with ProcessPoolExecutor(1, get_context("spawn")) as elsewhere:
        elsewhere.submit(check, addresses[place], scaling_file).result(timeout=180)
