"""A Ray session for the length of a block: started here, or joined where a cluster runs already."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import luthier
from luthier.cluster.environment import apply_environment, environment
from luthier.cluster.haproxy import haproxy
from luthier.cluster.isolation import isolated
from luthier.cluster.loopback import keep_loopback
from luthier.config import RunConfig
from luthier.errors import ResourceError
from luthier.secret_refs import WORKER_HOOK, apply_secrets, references_for_workers

NAMESPACE = "luthier"

CONNECT_TIMEOUT_S = 5.0

_joined: set[str | None] = set()
"""By which address the open session's cluster was joined; Ray itself knows the cluster by another one."""


@dataclass(frozen=True)
class Session:
    """An open Ray session.

    Attributes:
        address: Host and port of the cluster's control store.
        started: Whether this block started the cluster, and will stop it.
        resources: Resource name to amount in the whole cluster.
    """

    address: str
    started: bool
    resources: dict[str, float]


@contextmanager
def start(cfg: RunConfig, *, dashboard: bool = False) -> Iterator[Session]:
    """Open a Ray session, and close at the end what was opened here.

    The cluster is, in this order: the session that this process has open; ``cfg.cluster.address``;
    ``$RAY_ADDRESS`` (set inside a submitted job); a new one on this machine.

    Args:
        cfg: The run's config.
        dashboard: Run the dashboard of a cluster that is started here.

    Raises:
        ResourceError: The named cluster can't be reached or is another than the one that is open, or a local one
            does not start.
    """
    apply_environment(cfg)
    apply_secrets(cfg)
    address = cfg.cluster.address or os.environ.get("RAY_ADDRESS")
    if address:
        keep_loopback(address)
    import ray

    if ray.is_initialized():
        session = _describe(started=False)
        if cfg.cluster.address not in _joined:
            _refuse_another(cfg.cluster.address, session.address)
        yield session
        return
    with nullcontext() if address else haproxy():
        try:
            if address:
                ray.init(**_join(cfg, address))
            else:
                with isolated(cfg, dashboard=dashboard) if cfg.offline else nullcontext():
                    ray.init(**_start_here(cfg, dashboard=dashboard))
        except Exception as error:  # Ray raises a bare Exception where a node does not start in time
            what = f"cluster.address={address!r} can't be reached" if address else "a local Ray cluster does not start"
            raise ResourceError(
                f"{what}: {error}; check that the cluster runs, or leave cluster.address out."
            ) from error
        try:
            _joined.add(address)
            yield _describe(started=address is None)
        finally:
            _joined.clear()
            ray.shutdown()


def _refuse_another(wanted: str | None, opened: str) -> None:
    """One process has one Ray session; another cluster than the open one can't be joined beside it."""
    if wanted in (None, "auto") or _place(str(wanted)) == _place(opened):
        return
    raise ResourceError(
        f"cluster.address={wanted!r} is not the cluster at {opened} that this process has open; close that session "
        "(ray.shutdown()), or leave cluster.address out."
    )


def _place(address: str) -> tuple[str, str]:
    """IP address and port, so that names of one machine compare equal."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        return socket.gethostbyname(host.strip("[]")), port
    except OSError:
        return host, port


def _describe(*, started: bool) -> Session:
    import ray

    resources = dict(ray.cluster_resources())  # type: ignore[no-untyped-call]
    return Session(ray.get_runtime_context().gcs_address, started, resources)


def _start_here(cfg: RunConfig, *, dashboard: bool) -> dict[str, Any]:
    # Workers inherit this process's environment, so no runtime_env without need: it keeps Ray from prestarting them.
    return {
        "address": "local",
        "num_cpus": cfg.cluster.num_cpus or os.cpu_count() or 1,
        "include_dashboard": dashboard,
        "dashboard_host": "127.0.0.1",
        **_quiet(),
        **({"runtime_env": _guarded(cfg)} if cfg.secrets else {}),
    }


def _join(cfg: RunConfig, address: str) -> dict[str, Any]:
    _probe(address)
    return {"address": address, **_quiet(), **_shipped(cfg)}


def _quiet() -> dict[str, Any]:
    return {"namespace": NAMESPACE, "log_to_driver": False, "logging_level": "ERROR"}


def _shipped(cfg: RunConfig) -> dict[str, Any]:
    """Environment and code for nodes that do not share this process's; a job has brought them already."""
    if os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR"):
        return {"runtime_env": _guarded(cfg)} if cfg.secrets else {}
    guarded = _guarded(cfg) if cfg.secrets else {"env_vars": {}}
    shipped = {"py_modules": [str(Path(luthier.__file__).parent)]}
    return {"runtime_env": {**guarded, **shipped, "env_vars": {**environment(cfg), **guarded["env_vars"]}}}


def _guarded(cfg: RunConfig) -> dict[str, Any]:
    """What has worker processes look the run's secrets up, and keep them out of what they print: no value is in it."""
    return {"worker_process_setup_hook": WORKER_HOOK, "env_vars": references_for_workers(cfg)}


def _probe(address: str) -> None:
    """Fail within seconds where nothing listens; Ray itself retries for about a minute."""
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if separator and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_S).close()
