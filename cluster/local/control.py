"""Bring a local cluster up, look at it, and take it down."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from luthier.cluster.haproxy import short_place
from luthier.cluster.local.asking import answers
from luthier.cluster.local.head import command, end_leftovers, variables
from luthier.cluster.local.keeper import is_kept, keep
from luthier.cluster.local.preparing import prepare, require_ports
from luthier.cluster.local.settings import (
    Record,
    Settings,
    forget_record,
    gcs_dir,
    head_log,
    keeper_log,
    read_record,
    write_record,
)
from luthier.cluster.token import TOKEN, token_path
from luthier.config.base import Config
from luthier.errors import ConfigError, ResourceError
from luthier.paths import writable_dir

State = Literal["running", "starting", "stopped"]

_START_TIMEOUT_S = 180.0
_STOP_TIMEOUT_S = 30.0
_POLL_S = 0.25
_LOCK = ".lock"


class Facts(Config):
    """A cluster as a user sees it."""

    state: State
    address: str
    """Of the dashboard and the job server: what ``--address`` takes."""

    token: str
    """The file that holds the token, or ``$RAY_AUTH_TOKEN``."""

    directory: str
    """Where its state and its logs lie."""

    keeper_pid: int | None
    """The process that holds the head up."""

    submit: str
    """How to run a config on it."""


def status(directory: Path) -> Facts | None:
    """How the cluster of a directory is; None: there never was one."""
    record = read_record(directory)
    if record is None:
        return None
    alive = is_kept(record)
    return _facts(directory, record, ("running" if answers(record) else "starting") if alive else "stopped")


def up(directory: Path, settings: Settings) -> Facts:
    """Start a cluster that goes on when this process ends, or find it running.

    Raises:
        ConfigError: A port is taken, or the token's file can't be used.
        OutputError: The directory can't be written.
        ResourceError: The head does not start.
    """
    require_ports(directory, settings)
    directory = writable_dir(directory, "--directory")
    with _alone(directory):
        record = prepare(directory, settings)
        if not is_kept(record):
            process = _spawn_keeper(directory)
            _await_answer(directory, record, process)
    return _facts(directory, read_record(directory) or record, "running")


def hold(directory: Path, settings: Settings) -> int:
    """Start a cluster and hold it up in this process, as service managers and containers want it.

    Returns:
        Exit code of the keeper.

    Raises:
        ConfigError: As of :func:`up`, or the cluster runs already.
    """
    require_ports(directory, settings)
    directory = writable_dir(directory, "--directory")
    with _alone(directory):
        record = prepare(directory, settings)
        if record.keeper is not None and is_kept(record):
            raise ConfigError(
                f"--directory: process {record.keeper.pid} holds the cluster of {directory} up already; stop it first "
                "(luthier cluster down)."
            )
    return keep(directory)


def down(directory: Path, *, forget: bool) -> bool:
    """Stop the cluster, and all that it started.

    Args:
        directory: The cluster's.
        forget: Delete its state and its logs too.

    Returns:
        Whether it ran.
    """
    record = read_record(directory)
    if record is None:
        return False
    with _alone(directory):
        ran = is_kept(record)
        if ran:
            _stop_keeper(record)
        end_leftovers(directory)
        write_record(directory, record.model_copy(update={"keeper": None}))
        if forget:
            _forget(directory, record)
    if forget:
        (directory / _LOCK).unlink(missing_ok=True)
        if not any(directory.iterdir()):
            directory.rmdir()
    return ran


def describe(directory: Path, settings: Settings) -> dict[str, Any]:
    """What :func:`up` would run, with nothing made."""
    token = token_path()
    return {
        "command": command(settings, Path(short_place()) / "luthier-..."),
        "environment": variables(directory, token, is_local=settings.is_local),
        "address": settings.dashboard_url,
        "token": _token_name(token),
        "directory": str(directory),
    }


def _spawn_keeper(directory: Path) -> subprocess.Popen[bytes]:
    # -P: the keeper's own directory is no place to import from.
    arguments = [sys.executable, "-P", "-m", "luthier.cluster.local.keeper", str(directory)]
    with keeper_log(directory).open("ab") as log:
        return subprocess.Popen(
            arguments, cwd=directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )


def _await_answer(directory: Path, record: Record, keeper: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not answers(record):
        ended = keeper.poll() is not None
        if ended or time.monotonic() > deadline:
            if not ended:
                keeper.terminate()
                keeper.wait()
            raise ResourceError(
                f"the head does not start{'' if ended else f' within {_START_TIMEOUT_S:.0f} s'}: {_last_lines(directory)} "
                f"All it said is in {head_log(directory)}."
            )
        time.sleep(_POLL_S)


def _last_lines(directory: Path) -> str:
    for path in (head_log(directory), keeper_log(directory)):
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else []
        told = [line.strip() for line in lines if line.strip()]
        if told:
            return " / ".join(told[-3:])
    return "it said nothing."


def _stop_keeper(record: Record) -> None:
    import psutil

    assert record.keeper is not None
    try:
        process = psutil.Process(record.keeper.pid)
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=_STOP_TIMEOUT_S)
    except psutil.NoSuchProcess:
        return
    except psutil.TimeoutExpired:
        process.kill()


def _forget(directory: Path, record: Record) -> None:
    shutil.rmtree(gcs_dir(directory), ignore_errors=True)
    shutil.rmtree(record.runtime_dir, ignore_errors=True)
    for path in (head_log(directory), keeper_log(directory)):
        path.unlink(missing_ok=True)
    forget_record(directory)


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    try:
        with FileLock(directory / _LOCK, timeout=0):
            yield
    except Timeout as error:
        raise ResourceError(
            f"--directory: another `luthier cluster` command is at work in {directory}; wait until it has ended."
        ) from error


def _token_name(token_file: Path | None) -> str:
    return f"${TOKEN}" if token_file is None else str(token_file)


def _facts(directory: Path, record: Record, state: State) -> Facts:
    usual = record.token_file in (None, Path.home() / ".ray" / "auth_token")
    named = "" if usual else f"RAY_AUTH_TOKEN_PATH={record.token_file} "
    return Facts(
        state=state,
        address=record.settings.dashboard_url,
        token=_token_name(record.token_file),
        directory=str(directory),
        keeper_pid=record.keeper.pid if record.keeper is not None and state != "stopped" else None,
        submit=f"RAY_AUTH_MODE=token {named}luthier submit CONFIG --address {record.settings.dashboard_url}",
    )
