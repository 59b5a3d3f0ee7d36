"""A queue of a test's own, in its own process, that can be killed and started again."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import httpx

from luthier.cluster.package import Package
from luthier.cluster.queue import client
from luthier.cluster.queue.gang import Gang
from luthier.cluster.queue.ticket import Ticket
from luthier.cluster.submission import Submission
from luthier.digests import sha256_file
from luthier.ports import free_port
from tests.ray_head import RayHead


class QueueProcess:
    """``luthier queue serve``.

    Args:
        head: The cluster.
        directory: For its state, its teams and what jobs leave behind.
        teams: The file's content.
    """

    def __init__(self, head: RayHead, directory: Path, teams: str) -> None:
        self._head, self._directory = head, directory
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.token = Path(head.environment["RAY_AUTH_TOKEN_PATH"]).read_text()
        (directory / "teams.yaml").write_text(teams)
        self._package = _package(directory)
        # Not the head's own: by those its processes are found when it is to fall.
        self._environment = {key: value for key, value in head.environment.items() if "gcs_storage" not in key}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start, and wait until it answers and has seen the head."""
        place = self._directory
        command = [sys.executable, "-m", "luthier.cli", "queue", "serve", "--address", self._head.address]
        command += [
            "--teams",
            str(place / "teams.yaml"),
            "--directory",
            str(place / "state"),
            "--port",
            str(self._port),
        ]
        with (place / "queue.log").open("ab") as log:
            self._process = subprocess.Popen(command, env=self._environment, stdout=log, stderr=log)
        self._until(lambda: self._answers(), "the queue answers")

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def luthier(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ``luthier queue ...`` against it."""
        command = [sys.executable, "-m", "luthier.cli", "queue", *arguments, "--queue", self.url]
        return subprocess.run(command, env=self._environment, capture_output=True, text=True, timeout=60)

    def put(
        self,
        name: str,
        code: str = "pass",
        num_cpus: float = 2.0,
        team: str | None = None,
        priority: str | None = None,
        *,
        supervise: bool = False,
    ) -> Ticket:
        """Queue a line of Python."""
        submission = Submission(
            base_id=name,
            name=name,
            verb="train",
            entrypoint=shlex.join(["python", "-c", code]),
            env_vars={},
            package=self._package,
            metadata={"name": name},
        )
        gang = Gang(bundles=({"CPU": num_cpus},))
        return client.enqueue(self.url, submission, gang, team, priority, supervise=supervise, token=self.token).ticket

    def get(self, name: str) -> Ticket:
        """The job as it stands."""
        return client.ticket(self.url, name, token=self.token)

    def until(self, name: str, holds: Callable[[Ticket], bool]) -> Ticket:
        """Wait until something holds of a job."""
        self._until(lambda: holds(self.get(name)), f"of {name}: {self.get(name)}")
        return self.get(name)

    def _answers(self) -> bool:
        assert self._process is not None and self._process.poll() is None, self._log()
        try:
            return bool(httpx.get(f"{self.url}/health", timeout=5).json()["head"] == "answers")
        except httpx.HTTPError:
            return False

    def _until(self, holds: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + 120
        while not holds():
            assert time.monotonic() < deadline, f"waited in vain that {what}\n{self._log()}"
            time.sleep(0.1)

    def _log(self) -> str:
        return (self._directory / "queue.log").read_text(errors="replace")[-4000:]


def _package(directory: Path) -> Package:
    path = directory / "package.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hello.txt", "hello")
    return Package(path=str(path), sha256=sha256_file(path), num_files=1, size_bytes=path.stat().st_size)
