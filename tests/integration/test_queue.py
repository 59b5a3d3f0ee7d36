"""A queue for teams before a real Ray head: order, quota, gangs, and a service that is killed."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from luthier.cluster.queue import client
from luthier.errors import ConfigError, ResourceError
from tests.queue_process import QueueProcess
from tests.ray_head import RayHead, ray_head

pytestmark = pytest.mark.integration

TEAMS = """\
default_team: research
teams:
  research: {}
  guests: {cpu_hours: 0.000001, per: hour, max_priority: normal}
"""


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    with ray_head() as started:
        yield started


@pytest.fixture(scope="module")
def queue(head: RayHead, tmp_path_factory: pytest.TempPathFactory) -> Iterator[QueueProcess]:
    process = QueueProcess(head, tmp_path_factory.mktemp("queue"), TEAMS)
    process.start()
    try:
        yield process
    finally:
        process.kill()


def test_of_two_gangs_that_need_the_whole_cluster_one_follows_the_other(queue: QueueProcess) -> None:
    queue.put("first", "import time; time.sleep(2)")
    queue.until("first", lambda one: one.state == "running")
    queue.put("second")
    waits = queue.until("second", lambda one: bool(one.reason))
    assert waits.reason == "asks for 2 CPU; not reserved: 0 CPU of 2 CPU"
    second = queue.until("second", lambda one: one.is_over)
    first = queue.get("first")
    assert (first.status, second.status) == ("SUCCEEDED", "SUCCEEDED")
    ended_s = first.attempts[0].ended_s
    assert ended_s is not None and second.attempts[0].started_s >= ended_s


def test_the_higher_priority_goes_first_and_a_job_can_be_moved(queue: QueueProcess) -> None:
    queue.put("blocker", "import time; time.sleep(3)")
    queue.until("blocker", lambda one: one.state == "running")
    for name, priority in (("low", "low"), ("normal", None), ("high", "high")):
        queue.put(name, priority=priority)
    moved = queue.luthier("move", "low", "--priority", "urgent", "--json")
    assert json.loads(moved.stdout)["priority"] == 100
    started = {
        name: queue.until(name, lambda one: one.is_over).attempts[0].started_s for name in ("low", "normal", "high")
    }
    assert sorted(started, key=lambda name: started[name]) == ["low", "high", "normal"]
    assert (
        "is SUCCEEDED; only a job that waits can be moved" in queue.luthier("move", "low", "--priority", "low").stderr
    )


def test_a_team_over_its_quota_waits_and_is_told_until_when(queue: QueueProcess) -> None:
    queue.put("allowed", "import time; time.sleep(1)", team="guests")
    queue.until("allowed", lambda one: one.is_over)
    queue.put("over", team="guests")
    waits = queue.until("over", lambda one: bool(one.reason))
    assert "team guests has used" in waits.reason and "of 1e-06 CPU-hours per hour; below that again at" in waits.reason
    queue.put("other")
    assert queue.until("other", lambda one: one.is_over).exit_code == 0
    guests = json.loads(queue.luthier("teams", "--json").stdout)[1]
    assert guests["cpu_hours"] > guests["cpu_hours_quota"] and guests["num_queued"] == 1
    assert queue.luthier("cancel", "over").stdout == "cancelled over\n"
    assert queue.get("over").status == "STOPPED"
    with pytest.raises(ConfigError, match="team guests may use 0 at most"):
        queue.put("pushy", team="guests", priority="high")
    with pytest.raises(ConfigError, match="did you mean 'guests'"):
        queue.put("lost", team="gests")


def test_a_job_that_runs_is_stopped_and_its_place_is_free(queue: QueueProcess) -> None:
    queue.put("long", "import time; time.sleep(600)")
    queue.until("long", lambda one: one.state == "running")
    queue.put("behind")
    assert queue.luthier("cancel", "long", "--dry-run").stdout == "would cancel long, which is running\n"
    queue.luthier("cancel", "long")
    assert queue.until("behind", lambda one: one.is_over).exit_code == 0
    assert queue.get("long").status == "STOPPED"


def test_what_the_cluster_can_never_hold_is_refused(queue: QueueProcess) -> None:
    with pytest.raises(ResourceError, match="asks for 3 CPU, the cluster has 2"):
        queue.put("large", num_cpus=3.0)
    assert queue.luthier("show", "large").returncode == 2


def test_nothing_is_told_without_the_token(queue: QueueProcess) -> None:
    for path in ("tickets", "teams", "tickets/first"):
        assert httpx.get(f"{queue.url}/v1/{path}").status_code == 401
    with pytest.raises(ResourceError, match="does not take the token"):
        client.tickets(queue.url, token="guess")


def test_a_supervised_job_that_is_killed_runs_once_more(queue: QueueProcess, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    code = (
        f"import os, pathlib, time; p = pathlib.Path({str(pid)!r}); again = p.exists(); p.write_text(str(os.getpid()))"
    )
    queue.put("mortal", f"{code}; time.sleep(0 if again else 600)", supervise=True)
    queue.until("mortal", lambda _: pid.exists() and pid.read_text().isdigit())
    os.kill(int(pid.read_text()), signal.SIGKILL)
    ended = queue.until("mortal", lambda one: one.is_over)
    assert [attempt.job_id for attempt in ended.attempts] == ["mortal", "mortal-2"]
    assert [attempt.status for attempt in ended.attempts] == ["FAILED", "SUCCEEDED"]


def test_a_queue_that_is_killed_loses_no_job_and_runs_none_twice(queue: QueueProcess, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    names = [f"job{number}" for number in range(4)]
    for name in names:
        queue.put(name, f"import time; open({str(ran)!r}, 'a').write('{name} '); time.sleep(0.5)", num_cpus=1.0)
    for delay_s in (0.2, 1.1):
        time.sleep(delay_s)
        queue.kill()
        queue.start()
    for name in names:
        assert queue.until(name, lambda one: one.is_over).status == "SUCCEEDED"
    assert sorted(ran.read_text().split()) == names
    listed = queue.luthier("list", "--all", "--json")
    assert {one["id"] for one in json.loads(listed.stdout)} >= set(names)
