"""Parts of a local cluster are killed: its raylet, its keeper, and its head again and again."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import psutil
import pytest

from luthier.cluster.local.restarts import MAX_RESTARTS
from tests.integration.local_cluster import Cluster

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("up"))
    try:
        yield made
    finally:
        made.run("down", "--forget")
        assert not made.directory.exists()


def kill(cluster: Cluster, name: str) -> None:
    (process,) = [one for one in cluster.processes() if one.name() == name]
    process.kill()
    process.wait(timeout=10)


def test_a_job_that_ran_when_the_raylet_died_has_failed_and_the_next_one_runs(cluster: Cluster) -> None:
    cluster.up()
    cluster.submit("lost", "sleep 1000")
    cluster.await_state("lost", "RUNNING")
    kill(cluster, "raylet")
    cluster.await_state("lost", "FAILED", within_s=180)
    assert not [one for one in cluster.processes() if "sleep 1000" in " ".join(one.cmdline())]
    cluster.submit("next", "true")
    cluster.await_state("next", "SUCCEEDED")


def test_a_head_ends_with_its_keeper_and_the_next_up_knows_its_jobs(cluster: Cluster) -> None:
    facts = cluster.up()
    cluster.submit("kept", "true")
    cluster.await_state("kept", "SUCCEEDED")
    keeper = psutil.Process(facts["keeper_pid"])
    keeper.kill()
    assert cluster.run("status")[1]["state"] == "stopped"
    again = cluster.up()
    assert (again["was_running"], again["keeper_pid"] != facts["keeper_pid"]) == (False, True)
    assert cluster.job_states() == {"kept": "SUCCEEDED"}


def test_a_keeper_gives_up_on_a_head_that_dies_again_and_again(cluster: Cluster) -> None:
    keeper = psutil.Process(cluster.up()["keeper_pid"])
    deadline = time.monotonic() + 240
    log = cluster.directory / "keeper.log"
    while keeper.is_running() and keeper.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, log.read_text()
        for child in keeper.children():
            child.send_signal(signal.SIGKILL)
        time.sleep(0.2)
    assert log.read_text().count("head started") == MAX_RESTARTS + 1
    assert "giving up" in log.read_text()
    assert cluster.processes() == []
    assert cluster.run("status")[1]["state"] == "stopped"
