"""What a local cluster was asked to be, and what is known of it while it runs: one JSON file in its directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from luthier.config.base import Config
from luthier.digests import atomic_write_text
from luthier.errors import ConfigError
from luthier.paths import state_dir

DASHBOARD_PORT = 8265
GCS_PORT = 6379
LOOPBACK = ("127.0.0.1", "localhost", "::1")

_RECORD = "cluster.json"
Port = Annotated[int, Field(ge=1, le=65535)]


class Settings(Config):
    """What the user chose."""

    host: str = "127.0.0.1"
    """Address that the head listens on; the default is reachable from this machine only."""

    port: Port = GCS_PORT
    """Port by which nodes and drivers join."""

    dashboard_port: Port = DASHBOARD_PORT
    """Port of the dashboard and of the job server."""

    num_cpus: Annotated[int, Field(ge=0)] | None = None
    """Logical CPUs. None: the machine's."""

    num_gpus: Annotated[int, Field(ge=0)] | None = None
    """Logical GPUs. None: the machine's."""

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        return self.host in LOOPBACK

    @property
    def reached_at(self) -> str:
        """Host by which a process of this machine reaches the dashboard."""
        return "127.0.0.1" if self.host in ("0.0.0.0", *LOOPBACK) else self.host

    @property
    def dashboard_url(self) -> str:
        """What ``--address`` takes."""
        return f"http://{self.reached_at}:{self.dashboard_port}"


class Keeper(Config):
    """The process that holds the head up. A process id is used again after a while, so its start counts too."""

    pid: int
    started_at: float
    """Seconds since the epoch, as the kernel knows it."""


class Record(Config):
    """What lies in a cluster's directory."""

    settings: Settings
    runtime_dir: Path
    """Ray's session files and sockets, whose paths must be short."""

    agent_ports: tuple[Port, Port, Port]
    """Of Ray's client server, of the head's agent, and of its metrics. A job's record names the agent that holds its log, so
    a head that is started again listens where the former one did."""

    token_file: Path | None
    """Where the token lies. None: in the environment variable ``RAY_AUTH_TOKEN`` of whoever started the cluster."""

    keeper: Keeper | None = None
    """None: it was stopped."""


def default_directory() -> Path:
    """Where a cluster's state lies unless the user says otherwise."""
    return state_dir() / "cluster"


def gcs_dir(directory: Path) -> Path:
    """Where Ray's control store keeps jobs, actors and Serve's applications."""
    return directory / "gcs"


def keeper_log(directory: Path) -> Path:
    """When the head was started, ended, and started again."""
    return directory / "keeper.log"


def head_log(directory: Path) -> Path:
    """What ``ray start`` printed."""
    return directory / "head.log"


def read_record(directory: Path) -> Record | None:
    """What is known of the cluster of a directory; None: it never had one.

    Raises:
        ConfigError: The file is damaged.
    """
    path = directory / _RECORD
    try:
        return Record.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, ValidationError) as error:
        raise ConfigError(
            f"{path}: not a record of a cluster ({error}); move it away if no cluster runs from that directory."
        ) from error


def write_record(directory: Path, record: Record) -> None:
    """Keep what is known, whole or not at all."""
    atomic_write_text(directory / _RECORD, record.model_dump_json(indent=1))


def forget_record(directory: Path) -> None:
    """Remove it."""
    (directory / _RECORD).unlink(missing_ok=True)
