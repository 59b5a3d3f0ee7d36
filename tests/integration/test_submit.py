"""Jobs on a real Ray head: what is sent, what comes back, whose exit code, and what a broken connection does."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from luthier.config import RunConfig, dump_yaml
from tests.conftest import ConfigIn
from tests.queue_process import QueueProcess
from tests.ray_head import BIN, RayHead, ray_head

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    with ray_head() as started:
        yield started


@pytest.fixture
def project(tmp_path: Path, small_data: Path, shallow_base_dir: Path, config_in: ConfigIn) -> Path:
    """A directory to submit from: a config, its data, and a directory of results that is never sent."""
    project = tmp_path / "project"
    (project / "runs").mkdir(parents=True)
    (project / "runs" / "large.bin").write_bytes(b"x")
    for split in ("train", "validation"):
        (project / f"{split}.jsonl").write_bytes((small_data / f"{split}.jsonl").read_bytes())
    described = config_in(project).model_dump(mode="json")
    described["model"]["model_name_or_path"] = str(shallow_base_dir)
    described["datasets"] = [{"train": "train.jsonl", "validation": "validation.jsonl"}]
    described |= {"name": "demo", "storage_path": "runs", "registry": {"uri": "registry"}}
    (project / "run.yaml").write_text(dump_yaml(RunConfig.model_validate(described)))
    return project


def test_a_run_is_submitted_as_if_it_ran_here(head: RayHead, project: Path) -> None:
    done = head.luthier("submit", "run.yaml", "--verb", "train", "--json", cwd=project)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert (told["name"], told["status"], told["exit_code"]) == ("demo", "SUCCEEDED", 0)
    artifact = Path(told["result"]["artifact_dir"])
    assert artifact.is_relative_to(project / "runs")  # not the job's own directory, which is gone soon
    assert (artifact / "manifest.json").exists()
    assert "▸ Fine-tuning" in done.stderr
    assert "sending" in done.stderr and "MiB" in done.stderr
    assert "@luthier" not in done.stderr
    assert "train" in done.stderr and "3/3" in done.stderr  # the bar, drawn here from what the job wrote
    for verb in ("status", "wait"):
        by_name = head.luthier(verb, "demo", "--json")
        assert by_name.returncode == 0, by_name.stderr
        assert told["job_id"] in by_name.stdout
    printed = head.luthier("logs", "demo").stdout
    assert "▸ Fine-tuning" in printed and "@luthier" not in printed
    events = [json.loads(line) for line in head.luthier("logs", "demo", "--json").stdout.splitlines()]
    assert {"bar", "stage", "result"} <= {kind for line in events for kind in line.get("event", {})}


def test_the_exit_code_is_the_jobs_own(head: RayHead, project: Path) -> None:
    (project / "train.jsonl").write_text('{"text": "hello", "label": "a"}\n{"text": "cut off\n')
    done = head.luthier("submit", "run.yaml", "--verb", "train", cwd=project)
    assert done.returncode == 2
    assert "train.jsonl:2" in done.stdout
    assert "FAILED, exit code 2" in done.stdout
    assert head.luthier("wait", "demo").returncode == 2


def test_the_same_config_joins_while_it_runs_and_starts_anew_afterwards(head: RayHead, project: Path) -> None:
    def submit(*options: str) -> str:
        done = head.luthier(
            "submit", "run.yaml", "seed=7", "--verb", "train", "--no-wait", "--json", *options, cwd=project
        )
        assert done.returncode == 0, done.stderr
        return str(json.loads(done.stdout)["job_id"])

    first = submit()
    assert first.startswith("demo-train-")
    assert submit() == first
    second = submit("--again")
    assert second == f"{first}-2"
    for job in (second, first):
        stopped = head.luthier("stop", job)
        assert stopped.returncode == 0, stopped.stderr
        assert head.luthier("wait", job, "--timeout", "60").returncode == 1
    assert "had ended already" in head.luthier("stop", first).stdout
    assert submit() == f"{first}-3"
    assert head.luthier("stop", "demo").returncode == 0  # by name: the newest


def test_a_run_that_waits_in_a_queue_is_followed_to_its_end(head: RayHead, project: Path, tmp_path: Path) -> None:
    queue = QueueProcess(head, tmp_path, "default_team: research\nteams: {research: {}}\n")
    queue.start()
    try:
        queue.put("before", "import time; time.sleep(5)")
        queue.until("before", lambda one: one.state == "running")
        asked = ("submit", "run.yaml", "seed=8", "--verb", "train", "--queue", queue.url, "--team", "research")
        done = head.luthier(*asked, "--json", cwd=project)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "not reserved: 0 CPU of 2 CPU" in done.stderr  # why it waits
        told = json.loads(done.stdout)
        assert (Path(told["result"]["artifact_dir"]) / "manifest.json").exists()
        before, mine = queue.get("before"), queue.get("demo")
        assert mine.status == "SUCCEEDED" and mine.attempts[0].job_id == told["job_id"]
        assert mine.attempts[0].started_s >= (before.attempts[0].ended_s or float("inf"))
    finally:
        queue.kill()


def test_an_unknown_job_and_a_token_that_is_not_its_own_are_refused(head: RayHead) -> None:
    for verb in ("status", "stop", "logs", "wait"):
        done = head.luthier(verb, "nope")
        assert done.returncode == 2
        assert "no job 'nope'" in done.stderr
    strangers = {**head.environment, "RAY_AUTH_TOKEN_PATH": "/dev/null"}
    done = subprocess.run(head.command("list"), env=strangers, capture_output=True, text=True)
    assert done.returncode == 2
    assert "token" in done.stderr


class Line:
    """A network line to a port of this machine that can be cut.

    Attributes:
        port: Where to connect.
    """

    def __init__(self, to_port: int) -> None:
        self._to = to_port
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):  # the listener was closed: the end
            while True:
                near = self._listener.accept()[0]
                far = socket.create_connection(("127.0.0.1", self._to))
                self._open += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):  # cut
            while block := source.recv(65536):
                sink.sendall(block)
            sink.shutdown(socket.SHUT_WR)

    def cut(self) -> int:
        """Break every connection; new ones are taken. Returns how many there were."""
        broken = [one for one in self._open if one.fileno() >= 0]
        for one in broken:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._open = []
        return len(broken)

    def close(self) -> None:
        self._listener.close()
        self.cut()


def test_a_log_is_followed_across_broken_connections(head: RayHead, tmp_path: Path) -> None:
    code = "import time\nfor n in range(60): print('line', n, flush=True); time.sleep(0.1)\nraise SystemExit(5)"
    submit = [str(BIN / "ray"), "job", "submit", "--address", head.address, "--submission-id", "counting", "--no-wait"]
    subprocess.run([*submit, "--", "python", "-c", code], env=head.environment, check=True, capture_output=True)
    line = Line(int(head.address.rpartition(":")[2]))
    follow = [*head.command("logs", "-f", "counting")[:-1], f"http://127.0.0.1:{line.port}"]
    seen = tmp_path / "seen"
    try:
        with seen.open("w") as stream:
            following = subprocess.Popen(follow, env=head.environment, stdout=stream, stderr=subprocess.STDOUT)
        for number in (10, 30):
            deadline = time.monotonic() + 60
            while f"line {number}\n" not in seen.read_text():
                assert following.poll() is None and time.monotonic() < deadline, seen.read_text()
                time.sleep(0.05)
            assert line.cut() > 0
        assert following.wait(timeout=60) == 0
    finally:
        line.close()
    printed = [text for text in seen.read_text().splitlines() if text.startswith("line ")]
    assert printed == [f"line {number}" for number in range(60)]
    assert head.luthier("wait", "counting").returncode == 5
