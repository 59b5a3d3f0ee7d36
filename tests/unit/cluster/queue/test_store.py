"""The queue's file: what was promised is there after a kill, and nothing else."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from luthier.cluster.package import Package
from luthier.cluster.queue.entry import Asked, cancel, enqueue, move
from luthier.cluster.queue.gang import Gang
from luthier.cluster.queue.order import Cluster
from luthier.cluster.queue.packages import UNUSED_S, Packages
from luthier.cluster.queue.store import Store
from luthier.cluster.queue.teams import Policy, Team
from luthier.cluster.submission import Submission
from luthier.errors import ConfigError, ResourceError

pytestmark = pytest.mark.unit

POLICY = Policy(teams={"a": Team(), "b": Team(max_priority=0)}, default_team="a")
PACKAGE = Package(path="package.zip", sha256="0" * 64, num_files=1, size_bytes=1)

WRITER = """
import sys
from pathlib import Path
from tests.unit.cluster.queue.test_store import POLICY, asked
from luthier.cluster.queue.entry import cancel, enqueue
from luthier.cluster.queue.store import Store
store = Store(Path(sys.argv[1]))
for number in range(10_000):
    name = f"{sys.argv[2]}-{number}"
    ticket = enqueue(asked(name), store, POLICY, None).ticket
    print("queued", name, flush=True)
    if number % 2:
        cancel(ticket, store)
        print("ended", name, flush=True)
"""


def asked(base_id: str = "demo", num_cpus: float = 1.0, **changes: object) -> Asked:
    submission = Submission(
        base_id=base_id, name="demo", verb="train", entrypoint="true", env_vars={}, package=PACKAGE, metadata={}
    )
    return Asked.model_validate({"submission": submission, "gang": Gang(bundles=({"CPU": num_cpus},)), **changes})


def test_what_was_promised_before_a_kill_is_there_after_it(tmp_path: Path) -> None:
    generator = random.Random(0)
    promised: dict[str, str] = {}
    for turn in range(5):
        command = [sys.executable, "-c", WRITER, str(tmp_path), f"turn{turn}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            told = [process.stdout.readline()]
            time.sleep(generator.uniform(0.0, 0.2))
            process.kill()
            told += process.stdout.readlines()
        promised |= {name: state for state, name in (line.split() for line in told if line.endswith("\n"))}
        store = Store(tmp_path)
        there = {ticket.id: ticket.state for ticket in store.all()}
        numbers = [ticket.number for ticket in store.all()]
        store.close()
        # A ticket may have ended without the word of it coming out before the kill; it can't be queued again.
        assert all(there.get(name) in (state, "ended") for name, state in promised.items())
        assert len(there) <= len(promised) + turn + 1  # and one in each turn may have been kept without it
        assert numbers == sorted(set(numbers))
    assert len(promised) > 20


def test_a_directory_has_one_queue(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(ConfigError, match="another queue works in"):
        Store(tmp_path)
    store.close()
    Store(tmp_path).close()
    assert (tmp_path / "queue.sqlite").stat().st_mode & 0o077 == 0
    assert tmp_path.stat().st_mode & 0o077 == 0


def test_a_file_of_another_version_or_none_of_ours_is_refused(tmp_path: Path) -> None:
    Store(tmp_path).close()
    connection = sqlite3.connect(tmp_path / "queue.sqlite")
    connection.execute("PRAGMA user_version=7")
    connection.close()
    with pytest.raises(ConfigError, match="has version 7 of the queue's file, this luthier reads 1"):
        Store(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    (other / "queue.sqlite").write_text("not a database, but long enough to be looked at as one" * 10)
    with pytest.raises(ConfigError, match="is not a queue's file"):
        Store(other)


def test_the_same_run_is_joined_until_it_is_over(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = enqueue(asked(), store, POLICY, None)
    assert not first.joined
    assert enqueue(asked(), store, POLICY, None).ticket.id == "demo"
    assert enqueue(asked(), store, POLICY, None).joined
    assert enqueue(asked(again=True), store, POLICY, None).ticket.id == "demo-2"
    for name in ("demo", "demo-2"):
        ticket = store.get(name)
        assert ticket is not None
        assert cancel(ticket, store).status == "STOPPED"
    third = enqueue(asked(), store, POLICY, None).ticket
    assert (third.id, third.number) == ("demo-3", 3)
    store.close()


def test_bad_requests_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    cluster = Cluster(nodes=({"CPU": 4.0}, {"CPU": 4.0}))
    split = asked().model_copy(update={"gang": Gang(bundles=({"CPU": 3.0},) * 3)})
    for wanted, error, told in (
        (asked(team="c"), ConfigError, "--team: unknown team 'c'"),
        (asked(team="b", priority="high"), ConfigError, "--priority is 50; team b may use 0 at most"),
        (asked(priority="hihg"), ConfigError, "did you mean 'high'"),
        (asked(priority=101), ConfigError, "it must be from -100 to 100"),
        (asked(num_cpus=0.0), ConfigError, "asks for no resources"),
        (asked(num_cpus=-1.0), ConfigError, "asks for no resources"),
        (asked(num_cpus=9.0), ResourceError, "asks for 9 CPU, the cluster has 8"),
        (
            split.model_copy(update={"gang": Gang(bundles=({"CPU": 2.5},) * 3)}),
            ResourceError,
            "each worker on one node",
        ),
    ):
        with pytest.raises(error, match=told):
            enqueue(wanted, store, POLICY, cluster)
    assert store.all() == ()
    store.close()


def test_only_a_waiting_job_is_moved_and_not_above_its_teams_highest(tmp_path: Path) -> None:
    store = Store(tmp_path)
    ticket = enqueue(asked(team="b", priority="low"), store, POLICY, None).ticket
    assert move(ticket, "normal", store, POLICY).priority == 0
    with pytest.raises(ConfigError, match="may use 0 at most"):
        move(ticket, 1, store, POLICY)
    cancel(ticket, store)
    with pytest.raises(ConfigError, match="only a job that waits"):
        move(ticket, "low", store, POLICY)
    store.close()


async def blocks(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 3):
        yield data[start : start + 3]


def test_a_package_is_kept_whole_or_not_at_all(tmp_path: Path) -> None:
    packages = Packages(tmp_path / "packages", limit_bytes=10)
    digest = hashlib.sha256(b"content").hexdigest()
    with pytest.raises(ConfigError, match="larger than 10 bytes"):
        asyncio.run(packages.save(digest, blocks(b"content that is long")))
    with pytest.raises(ConfigError, match="send it again"):
        asyncio.run(packages.save(digest, blocks(b"contend")))
    assert list((tmp_path / "packages").iterdir()) == []
    assert not packages.has(digest)
    assert asyncio.run(packages.save(digest, blocks(b"content"))) == 7
    assert packages.has(digest)
    packages.drop_unused(set())  # its ticket may be on the way
    assert packages.has(digest)
    long_ago = time.time() - UNUSED_S - 1
    os.utime(packages.path(digest), (long_ago, long_ago))
    packages.drop_unused({digest})
    assert packages.path(digest).exists()
    packages.drop_unused(set())
    assert not packages.has(digest)


def test_a_head_that_knows_no_node_yet_refuses_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert enqueue(asked("early"), store, POLICY, Cluster(nodes=())).ticket.state == "queued"
    with pytest.raises(ResourceError, match="the cluster has"):
        enqueue(asked("late"), store, POLICY, Cluster(nodes=({"CPU": 0.5},)))
