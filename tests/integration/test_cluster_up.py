"""A cluster of this machine that outlives its command: refused without a token, and its jobs are known after a crash."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator

import httpx
import psutil
import pytest

from tests.integration.local_cluster import Cluster

JOB = "kept"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("up"))
    try:
        yield made
    finally:
        made.run("down", "--forget")


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

    cluster.submit(JOB, "echo $((6*7))")
    cluster.await_state(JOB, "SUCCEEDED")

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
