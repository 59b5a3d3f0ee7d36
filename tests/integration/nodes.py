"""Ray nodes as processes of their own, as ``ray start`` makes them, on free ports and in a directory of their own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.ports import free_port

BIN = Path(sys.executable).parent
TOKEN = "0" * 64
_PORTS = ("--dashboard-agent-listen-port", "--metrics-export-port")
_START_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Cluster:
    """A cluster under way.

    Attributes:
        address: Host and port of its control store.
        dashboard: URL of its job server.
        directory: Ray's temporary directory.
        environment: Of whoever speaks to it.
    """

    address: str
    dashboard: str
    directory: Path
    environment: Mapping[str, str]


@contextmanager
def cluster(
    *, dashboard: bool = False, token: bool = True, num_cpus: int = 2, variables: Mapping[str, str] | None = None
) -> Iterator[Cluster]:
    """A head; its nodes and processes are gone at the end.

    Args:
        dashboard: Whether it has a job server.
        token: Whether it asks for one.
        num_cpus: What the head has.
        variables: Environment variables of the head.
    """
    directory = Path(tempfile.mkdtemp(prefix="ray-"))  # short: Ray's socket paths must stay under 107 bytes
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "LUTHIER_API"))}
    environment |= {"RAY_AUTH_MODE": "token" if token else "disabled", "PATH": f"{BIN}:{environment['PATH']}"}
    if token:
        environment["RAY_AUTH_TOKEN"] = TOKEN
    gcs, board = free_port(), free_port()
    options = ["--head", f"--port={gcs}", f"--temp-dir={directory}", f"--num-cpus={num_cpus}"]
    options += [f"--include-dashboard={str(dashboard).lower()}", "--dashboard-host=127.0.0.1"]
    options += [f"--dashboard-port={board}", f"--ray-client-server-port={free_port()}"]
    try:
        with _started(options, {**environment, **(variables or {})}, directory / "head.out"):
            _await_port(board if dashboard else gcs)
            yield Cluster(f"127.0.0.1:{gcs}", f"http://127.0.0.1:{board}", directory, environment)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def joined(
    head: Cluster, number: int, variables: Mapping[str, str] | None = None, before: Sequence[str] = ()
) -> Iterator[None]:
    """A node more.

    Args:
        head: The cluster.
        number: Its number, for its files.
        variables: Environment variables of the node.
        before: A command before which the node's own is put, such as ``unshare``.
    """
    options = [f"--address={head.address}", "--num-cpus=1"]
    with _started(options, {**head.environment, **(variables or {})}, head.directory / f"node{number}.out", before):
        yield


@contextmanager
def cluster_of(*nodes: tuple[Mapping[str, str], Sequence[str]], **head: Any) -> Iterator[Cluster]:
    """A head and nodes, each told by its variables and the command before it; all are there."""
    with ExitStack() as stack:
        started = stack.enter_context(cluster(**head))
        for number, (variables, before) in enumerate(nodes):
            stack.enter_context(joined(started, number, variables, before))
            _await_nodes(started, 2 + number)  # two that start at once on one machine take each other's names
        yield started


@contextmanager
def _started(
    options: Sequence[str], environment: Mapping[str, str], log: Path, before: Sequence[str] = ()
) -> Iterator[None]:
    command = [*before, str(BIN / "ray"), "start", "--block", "--disable-usage-stats", "--node-ip-address=127.0.0.1"]
    command += ["--min-worker-port=0", "--max-worker-port=0", *(f"{port}={free_port()}" for port in _PORTS), *options]
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=20)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _await_port(port: int) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _await_nodes(head: Cluster, count: int) -> None:
    """Asked in another process: this one may have a session of its own open."""
    code = (
        "import sys, time, ray; ray.init(address=sys.argv[1], logging_level='ERROR', log_to_driver=False);"
        "deadline = time.monotonic() + 60\n"
        "while sum(node['Alive'] for node in ray.nodes()) < int(sys.argv[2]):\n"
        "    assert time.monotonic() < deadline, ray.nodes()\n"
        "    time.sleep(0.2)"
    )
    command = [sys.executable, "-c", code, head.address, str(count)]
    subprocess.run(command, env=head.environment, check=True, timeout=90)
