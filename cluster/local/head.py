"""The head of a local cluster as processes: how it is started, and how all that it started is ended."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from luthier.cluster import haproxy
from luthier.cluster.environment import ALWAYS
from luthier.cluster.local.settings import Record, Settings, gcs_dir
from luthier.cluster.loopback import LOOPBACK_VARIABLE
from luthier.cluster.token import TOKEN_PATH

if TYPE_CHECKING:
    import psutil

_GCS_PATH = "RAY_gcs_storage_path"
_HEAD_GRACE_S = 15.0
_GRACE_S = 3.0

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

# Of a session that the caller has open, or of the job that it runs in; a new head is none of theirs.
_OF_ANOTHER_CLUSTER = ("RAY_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR", "RAY_RAYLET_PID", "RAY_NODE_ID")

# Ray would take fixed ones, where a second cluster of this machine listens already.
_AGENT_PORTS = ("--ray-client-server-port", "--dashboard-agent-listen-port", "--metrics-export-port")


def command(settings: Settings, runtime_dir: Path) -> list[str]:
    """What starts the head and stays until it ends."""
    ray = str(Path(sys.executable).with_name("ray"))
    found = [ray, "start", "--head", "--block", "--disable-usage-stats", f"--port={settings.port}"]
    found += [f"--temp-dir={runtime_dir / 'ray'}", f"--dashboard-port={settings.dashboard_port}"]
    found += [f"--dashboard-host={settings.host}", "--include-dashboard=true"]
    if settings.host != "0.0.0.0":  # else Ray finds the address by which other machines reach this one
        found += [f"--node-ip-address={settings.host}"]
    if settings.num_cpus is not None:
        found += [f"--num-cpus={settings.num_cpus}"]
    if settings.num_gpus is not None:
        found += [f"--num-gpus={settings.num_gpus}"]
    return found


def variables(directory: Path, token_file: Path | None, *, is_local: bool) -> dict[str, str]:
    """What a head needs in its environment beyond the user's own: state on disk, a token, luthier's defaults."""
    needed = {
        "RAY_AUTH_MODE": "token",
        "RAY_gcs_storage": "rocksdb",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # there is no other node that could take over
        _GCS_PATH: str(gcs_dir(directory)),
    }
    if is_local:
        needed[LOOPBACK_VARIABLE] = "0"  # else Ray's servers listen on every interface
    return {**needed, **({TOKEN_PATH: str(token_file)} if token_file else {})}


def environment(directory: Path, record: Record) -> dict[str, str]:
    """All of a head's environment."""
    inherited = {key: value for key, value in os.environ.items() if key not in _OF_ANOTHER_CLUSTER}
    found = {**ALWAYS, **inherited, **variables(directory, record.token_file, is_local=record.settings.is_local)}
    found["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{found.get('PATH', os.defpath)}"  # a job's `python`
    if haproxy.wanted():
        place = record.runtime_dir / "h"  # short: HAProxy's sockets lie below it
        place.mkdir(mode=0o700, exist_ok=True)
        found |= haproxy.environment(place)
    return found


def start(directory: Path, record: Record, log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start the head on what it has stored; it ends with this process, however that ends."""
    ports = [f"{option}={port}" for option, port in zip(_AGENT_PORTS, record.agent_ports, strict=True)]
    return subprocess.Popen(
        [*command(record.settings, record.runtime_dir), *ports],
        env=environment(directory, record),
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        preexec_fn=_end_with_parent,
    )


def adopt_orphans() -> None:
    """Become the parent of processes whose own has ended, so that none that the head started gets lost."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_descendants() -> None:
    """End every process below this one, the head first: it knows in which order its own have to end."""
    import psutil

    me = psutil.Process()
    _end(me.children, _HEAD_GRACE_S, last=signal.SIGTERM)
    _end(lambda: me.children(recursive=True), _GRACE_S)


def end_leftovers(directory: Path) -> None:
    """End what a head of this directory left behind whose keeper was killed.

    They are told by their environment, which names the directory; the cluster is this user's own.
    """
    _end(lambda: [one for one in _all() if _started_for(one, directory)], _GRACE_S)


def _end(find: Callable[[], Sequence[psutil.Process]], grace_s: float, last: int = signal.SIGKILL) -> None:
    """SIGTERM for the processes, and ``last`` for those that are left after a while."""
    import psutil

    for how in dict.fromkeys((signal.SIGTERM, last)):
        found = find()
        for process in found:
            try:
                process.send_signal(how)
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(found, timeout=grace_s)


def _all() -> list[psutil.Process]:
    import psutil

    return [one for one in psutil.process_iter() if one.pid != os.getpid()]


def _started_for(process: psutil.Process, directory: Path) -> bool:
    import psutil

    try:
        return bool(process.environ().get(_GCS_PATH) == str(gcs_dir(directory)))
    except (psutil.Error, OSError):  # gone, or another user's
        return False


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
