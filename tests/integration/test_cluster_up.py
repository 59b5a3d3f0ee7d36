"""A cluster of this machine that outlives its command: refused without a token, and its jobs are known after a crash."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from luthier.ports import free_port

JOB = "kept"


@dataclass
class Cluster:
    """The command line on a directory of a test's own.

    Attributes:
        place: The test's directory.
        ports: Those that the cluster listens on.
    """

    place: Path
    ports: tuple[int, int] = field(default_factory=lambda: (free_port(), free_port()))

    @property
    def directory(self) -> Path:
        return self.place / "cluster"

    @property
    def environment(self) -> dict[str, str]:
        others = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        return {**others, "RAY_AUTH_TOKEN_PATH": str(self.place / "token"), "RAY_AUTH_MODE": "token"}

    def run(self, verb: str, *options: str) -> tuple[int, dict[str, Any]]:
        command = [sys.executable, "-m", "luthier.cli", "cluster", verb, "--directory", str(self.directory), "--json"]
        done = subprocess.run(
            [*command, *options], env=self.environment, capture_output=True, text=True, timeout=150, check=False
        )
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)

    def up(self) -> dict[str, Any]:
        port, dashboard = self.ports
        code, facts = self.run("up", f"--port={port}", f"--dashboard-port={dashboard}", "--num-cpus=1")
        assert code == 0
        return facts

    def get(self, path: str) -> httpx.Response:
        token = (self.place / "token").read_text()
        address = f"http://127.0.0.1:{self.ports[1]}"
        return httpx.get(f"{address}{path}", headers={"Authorization": f"Bearer {token}"}, timeout=10)

    def job_states(self, within_s: float = 60) -> dict[str, str]:
        """Each job's state, once the job server answers."""
        deadline = time.monotonic() + within_s
        while True:
            try:
                reply = self.get("/api/jobs/")
                if reply.status_code == 200:
                    return {one["submission_id"]: one["status"] for one in reply.json()}
            except httpx.HTTPError:
                pass  # not yet
            assert time.monotonic() < deadline, (self.directory / "keeper.log").read_text()
            time.sleep(0.3)

    def processes(self) -> list[psutil.Process]:
        """All that belong to it, by their command lines and their environments."""
        runtime = json.loads((self.directory / "cluster.json").read_text())["runtime_dir"]
        found = []
        for one in psutil.process_iter(["cmdline", "environ"]):
            told = [*(one.info["cmdline"] or ()), *(one.info["environ"] or {}).values()]
            if one.pid != os.getpid() and any(
                place in part for part in told for place in (runtime, str(self.directory))
            ):
                found.append(one)
        return found


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("up"))
    try:
        yield made
    finally:
        made.run("down", "--forget")


def submit(cluster: Cluster, job_id: str) -> None:
    code = (
        "import sys; from ray.job_submission import JobSubmissionClient as C;"
        "C(sys.argv[1]).submit_job(entrypoint='echo $((6*7))', submission_id=sys.argv[2])"
    )
    command = [sys.executable, "-c", code, f"http://127.0.0.1:{cluster.ports[1]}", job_id]
    subprocess.run(command, env=cluster.environment, check=True, timeout=60)


def test_a_job_is_known_after_the_control_store_was_killed_and_nothing_is_left_at_the_end(cluster: Cluster) -> None:
    facts = cluster.up()
    assert (facts["state"], facts["was_running"], facts["address"]) == (
        "running",
        False,
        f"http://127.0.0.1:{cluster.ports[1]}",
    )
    token = cluster.place / "token"
    assert token.stat().st_mode & 0o777 == 0o600
    assert len(token.read_text()) >= 32
    assert token.read_text() not in json.dumps(facts)

    for method, path in (("GET", "/api/jobs/"), ("POST", "/api/jobs/"), ("PUT", "/api/serve/applications/")):
        assert httpx.request(method, facts["address"] + path, json={"entrypoint": "true"}).status_code == 401

    listening = {
        (connection.laddr.ip, connection.laddr.port)
        for one in cluster.processes()
        for connection in one.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert {port for _, port in listening} >= set(cluster.ports)
    assert {ip for ip, _ in listening if ip.removeprefix("::ffff:") != "127.0.0.1"} == set(), listening

    submit(cluster, JOB)
    deadline = time.monotonic() + 60
    while cluster.job_states()[JOB] != "SUCCEEDED":
        assert time.monotonic() < deadline
        time.sleep(0.3)

    again = cluster.up()
    assert (again["was_running"], again["keeper_pid"]) == (True, facts["keeper_pid"])

    (store,) = [one for one in cluster.processes() if one.name() == "gcs_server"]
    store.send_signal(signal.SIGKILL)
    store.wait(timeout=10)
    assert cluster.job_states() == {JOB: "SUCCEEDED"}
    assert "42" in cluster.get(f"/api/jobs/{JOB}/logs").json()["logs"]
    assert "head ended by itself" in (cluster.directory / "keeper.log").read_text()
    assert cluster.run("status")[1]["keeper_pid"] == facts["keeper_pid"]

    assert cluster.run("down") == (0, {"directory": str(cluster.directory), "stopped": True, "forgotten": False})
    assert cluster.processes() == []
    code, stopped = cluster.run("status")
    assert (code, stopped["state"], stopped["keeper_pid"]) == (1, "stopped", None)
