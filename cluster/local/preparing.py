"""What a local cluster needs before its head starts: free ports, a token, and places to write to."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path

from luthier.cluster.haproxy import short_place
from luthier.cluster.local.head import end_leftovers
from luthier.cluster.local.keeper import is_kept
from luthier.cluster.local.settings import Record, Settings, gcs_dir, read_record, write_record
from luthier.cluster.token import ensure_token, token_path
from luthier.errors import ConfigError
from luthier.ports import free_port


def require_ports(directory: Path, settings: Settings) -> None:
    """Refuse ports that something else than the cluster itself listens on."""
    former = read_record(directory)
    if former is not None and is_kept(former):
        return
    if former is not None:
        end_leftovers(directory)
    _require_free("--port", settings.host, settings.port)
    _require_free("--dashboard-port", settings.host, settings.dashboard_port)


def prepare(directory: Path, settings: Settings) -> Record:
    """The record to start from; that of a cluster which runs is returned as it is."""
    former = read_record(directory)
    if former is not None and is_kept(former):
        return former
    token = token_path()
    ensure_token(token)
    runtime_dir = _runtime_dir(former)
    gcs_dir(directory).mkdir(mode=0o700, exist_ok=True)
    record = Record(settings=settings, runtime_dir=runtime_dir, agent_ports=_agent_ports(former), token_file=token)
    write_record(directory, record)
    return record


def _runtime_dir(former: Record | None) -> Path:
    """The former one, where its logs lie, if it is still there and our own; else a new one."""
    if former is not None:
        known = former.runtime_dir
        if known.is_dir() and not known.is_symlink() and known.stat().st_uid == os.getuid():
            return known
    return Path(tempfile.mkdtemp(prefix="luthier-", dir=short_place()))


def _agent_ports(former: Record | None) -> tuple[int, int, int]:
    """The former ones where they are free, else new ones."""
    if former is not None and all(_is_free("127.0.0.1", port) for port in former.agent_ports):
        return former.agent_ports
    return free_port(), free_port(), free_port()


def _is_free(host: str, port: int) -> bool:
    try:
        _require_free("", host, port)
    except ConfigError:
        return False
    return True


def _require_free(option: str, host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"{option}: {host}:{port} can't be listened on ({error.strerror}); choose another port, or stop what "
                "listens there."
            ) from error
