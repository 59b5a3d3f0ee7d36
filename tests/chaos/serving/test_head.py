"""The head of a cluster dies with everything on it; started again on what it had stored, it brings the endpoint back."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest

from luthier.ports import free_port
from luthier.registry import Registry
from luthier.trainers.base_model import base_digest
from tests.integration.serving.conftest import CHAT, KEY, ROOT, described, trained_adapter

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent
GCS_PORT = 9379  # below the ports that Ray gives to workers


class Head:
    """A head of a Ray cluster whose state lies on disk."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        stored = {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(directory / "gcs")}
        self.environment = {
            **os.environ,
            **stored,
            "LUTHIER_API_KEY": KEY,
            "RAY_AUTH_TOKEN": "0" * 64,
            "RAY_AUTH_MODE": "token",
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [str(BIN / "ray"), "start", "--head", "--block", "--disable-usage-stats", "--num-cpus=2"]
        command += [f"--port={GCS_PORT}", "--node-ip-address=127.0.0.1", f"--temp-dir={self._directory / 'ray'}"]
        command += ["--include-dashboard=false"]
        with (self._directory / "head.log").open("ab") as log:
            self._process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)

    def kill(self) -> None:
        """SIGKILL for every process of the head, as when its machine goes."""
        if self._process is None:
            return
        parent = psutil.Process(self._process.pid)
        for process in [parent, *parent.children(recursive=True), *self._left()]:
            try:
                os.kill(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._process.wait()

    def _left(self) -> list[psutil.Process]:
        place = str(self._directory)
        found = []
        for process in psutil.process_iter(["cmdline", "environ"]):
            if any(place in part for part in process.info["cmdline"] or ()) or place in (
                process.info["environ"] or {}
            ).get("RAY_gcs_storage_path", ""):
                found.append(process)
        return found


@pytest.fixture
def head() -> Iterator[Head]:
    directory = Path(tempfile.mkdtemp(prefix="head-"))  # short: Ray's socket paths must stay under 107 bytes
    started = Head(directory)
    started.start()
    try:
        yield started
    finally:
        started.kill()
        shutil.rmtree(directory, ignore_errors=True)


def test_a_new_head_brings_the_endpoint_back(head: Head, base_model_dir: Path, tmp_path: Path) -> None:
    artifact = described(trained_adapter(tmp_path / "artifact", base_model_dir), base_digest(base_model_dir))
    registry = Registry(str(tmp_path / "registry"), "champion")
    registry.register(artifact, "demo")
    port = free_port()
    settings = (
        f"cluster.address=127.0.0.1:{GCS_PORT}",
        f"registry.uri={tmp_path / 'registry'}",
        f"serve.port={port}",
        "serve.max_model_len=128",
    )
    command = [str(BIN / "luthier"), "serve", "--config", str(ROOT / "configs" / "quickstart.yaml"), "--json"]
    command += [part for setting in settings for part in ("--set", setting)]
    asked = {"model": "demo@1", "messages": CHAT, "max_tokens": 4, "temperature": 0}

    def ask(within_s: float) -> str:
        deadline = time.monotonic() + within_s
        while True:
            with suppress(httpx.HTTPError):  # nothing listens yet
                reply = httpx.post(
                    f"http://127.0.0.1:{port}/v1/chat/completions",
                    json=asked,
                    headers={"authorization": f"Bearer {KEY}"},
                    timeout=120,
                )
                if reply.status_code == 200:
                    return str(reply.json()["choices"][0]["message"]["content"])
            assert time.monotonic() < deadline
            time.sleep(1)

    up = subprocess.run([*command, "--detach", "demo@1"], env=head.environment, capture_output=True, text=True)
    assert up.returncode == 0, up.stderr
    before = ask(within_s=10)
    head.kill()
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"http://127.0.0.1:{port}/health")
    head.start()
    assert ask(within_s=240) == before
    down = subprocess.run([*command, "--down"], env=head.environment, capture_output=True, text=True)
    assert down.returncode == 0, down.stderr
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"http://127.0.0.1:{port}/health")
