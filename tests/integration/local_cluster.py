"""The command line on a local cluster in a test's own directory and on its own ports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from luthier.ports import free_port


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
            [*command, *options], env=self.environment, capture_output=True, text=True, timeout=240, check=False
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

    def job_states(self, within_s: float = 180) -> dict[str, str]:
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

    def submit(self, job_id: str, entrypoint: str) -> None:
        code = (
            "import sys; from ray.job_submission import JobSubmissionClient as C;"
            "C(sys.argv[1]).submit_job(entrypoint=sys.argv[3], submission_id=sys.argv[2])"
        )
        command = [sys.executable, "-c", code, f"http://127.0.0.1:{self.ports[1]}", job_id, entrypoint]
        subprocess.run(command, env=self.environment, check=True, timeout=60)

    def await_state(self, job_id: str, state: str, within_s: float = 180) -> None:
        deadline = time.monotonic() + within_s
        while (states := self.job_states())[job_id] != state:
            assert time.monotonic() < deadline, states
            time.sleep(0.3)
