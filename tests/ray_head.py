"""A Ray head of a test's own: on free ports, in its own directory, with its own token, gone at the end."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from luthier.ports import free_port

BIN = Path(sys.executable).parent

_PLACE = "RAY_gcs_storage_path"
"""Variable of every process of a head, those of its jobs included."""


class RayHead:
    """A head that asks for a token and keeps its records on disk, so that it can fall and be started again.

    Args:
        directory: Short: Ray's socket paths must stay under 107 bytes.
        num_cpus: Logical CPUs.

    Attributes:
        address: Of the job server.
        environment: For commands that speak to it.
    """

    def __init__(self, directory: Path, num_cpus: int = 2) -> None:
        self.directory = directory
        self._num_cpus = num_cpus
        self._dashboard, self._gcs = free_port(), free_port()
        self.address = f"http://127.0.0.1:{self._dashboard}"
        token = directory / "token"
        token.write_text(secrets.token_hex(32))
        token.chmod(0o600)
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        self.environment = {
            **inherited,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "PATH": f"{BIN}:{os.environ['PATH']}",  # the job runs `python`: this one
        }
        self._stored = {"RAY_gcs_storage": "rocksdb", _PLACE: str(directory / "gcs")}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and wait until the job server answers and knows the head's node. Ray gives a daemon 30 s to start, which a busy machine may miss."""
        for last in (False, False, True):
            if self._started(last=last):
                return
            self.kill()

    def _started(self, *, last: bool) -> bool:
        ports = ("--ray-client-server-port", "--dashboard-agent-listen-port", "--metrics-export-port")
        command = [str(BIN / "ray"), "start", "--head", "--block", "--disable-usage-stats"]
        command += ["--node-ip-address=127.0.0.1", f"--num-cpus={self._num_cpus}"]
        command += [f"--temp-dir={self.directory / 'ray'}", f"--port={self._gcs}"]
        command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={self._dashboard}"]
        command += [f"{option}={free_port()}" for option in ports]
        with (self.directory / "head.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                env={**self.environment, **self._stored},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 90
        while not self._has_node():
            fell = self._process.poll() is not None
            assert not (fell and last) and time.monotonic() < deadline, self._log()
            if fell:
                return False
            time.sleep(0.5)
        return True

    def _has_node(self) -> bool:
        token = Path(self.environment["RAY_AUTH_TOKEN_PATH"]).read_text()
        headers = {"Authorization": f"Bearer {token}"}
        try:
            reply = httpx.get(f"{self.address}/nodes?view=summary", headers=headers, timeout=60)
            nodes = reply.json()["data"]["summary"]
        except (httpx.HTTPError, ValueError, KeyError):  # answers come in stages: refused, 500, then JSON
            return False
        return any(node["raylet"].get("state") == "ALIVE" for node in nodes)

    def luthier(
        self, *arguments: str, cwd: Path | None = None, timeout_s: float = 240
    ) -> subprocess.CompletedProcess[str]:
        """Run a verb that speaks to this head to its end."""
        return subprocess.run(
            self.command(*arguments), env=self.environment, cwd=cwd, capture_output=True, text=True, timeout=timeout_s
        )

    def command(self, verb: str, *arguments: str) -> list[str]:
        """The command line of a verb that speaks to this head."""
        return [sys.executable, "-m", "luthier.cli", verb, *arguments, "--address", self.address]

    def processes(self, name: str) -> list[psutil.Process]:
        """The head's processes whose command line holds a name, such as ``gcs_server`` or ``raylet/raylet``."""
        assert self._process is not None
        below = psutil.Process(self._process.pid).children(recursive=True)
        return [process for process in below if name in " ".join(_command_line(process))]

    def await_fall(self) -> None:
        """Wait until the head has noticed that one of its daemons is gone, and has ended."""
        assert self._process is not None
        self._process.wait(timeout=60)

    def kill(self) -> None:
        """SIGKILL for every process of the head, as when its machine goes."""
        if self._process is None:
            return
        for process in [*self._below(), *self._left()]:
            try:
                os.kill(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._process.wait()
        self._process = None

    def _below(self) -> list[psutil.Process]:
        assert self._process is not None
        try:
            head = psutil.Process(self._process.pid)
            return [head, *head.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _left(self) -> list[psutil.Process]:
        """Processes that lost their parent; each has the head's directory in its command line or environment."""
        place = str(self.directory)
        return [
            one
            for one in psutil.process_iter()
            if any(place in part for part in (*_command_line(one), *_variables(one)))
        ]

    def _log(self) -> str:
        return (self.directory / "head.log").read_text(errors="replace")[-4000:]


def _command_line(process: psutil.Process) -> Sequence[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return ()


def _variables(process: psutil.Process) -> Sequence[str]:
    try:
        return (process.environ().get(_PLACE, ""),)
    except psutil.Error:
        return ()


@contextmanager
def ray_head(num_cpus: int = 2) -> Iterator[RayHead]:
    """A head that runs for the length of a block."""
    directory = Path(tempfile.mkdtemp(prefix="head-"))
    head = RayHead(directory, num_cpus)
    try:
        head.start()
        yield head
    finally:
        head.kill()
        shutil.rmtree(directory, ignore_errors=True)
