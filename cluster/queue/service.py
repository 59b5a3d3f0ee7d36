"""The process that keeps a team's queue."""

from __future__ import annotations

import logging
from pathlib import Path

from luthier.cluster.queue.app import make_app
from luthier.cluster.queue.dispatcher import Dispatcher
from luthier.cluster.queue.packages import Packages
from luthier.cluster.queue.store import Store
from luthier.cluster.queue.teams import load_policy
from luthier.cluster.queue.tokens import Tokens
from luthier.errors import ConfigError

DEFAULT_PORT = 8266

PACKAGE_LIMIT_BYTES = 500 * 2**20
"""What Ray itself takes at most, see ``GCS_STORAGE_MAX_SIZE`` of its packaging."""


def serve(
    address: str,
    teams: Path | None,
    directory: Path,
    *,
    host: str = "127.0.0.1",
    port: int = DEFAULT_PORT,
    allow_unauthenticated: bool = False,
) -> None:
    """Keep the queue until a signal ends this process; jobs on the cluster go on.

    Args:
        address: Of the head, ``http://HEAD:8265``; it may be away.
        teams: File of the teams; None: one team that may use everything.
        directory: Where the queue remembers.
        host: Address to listen on.
        port: Port to listen on.
        allow_unauthenticated: Let in whoever reaches the port.

    Raises:
        ConfigError: The file of teams is wrong, there is no token, or another queue works in the directory.
        OutputError: The directory can't be written.
    """
    import uvicorn

    if "://" not in address:
        raise ConfigError(f"--address is {address!r}; give the head as http://HOST:8265.")
    policy = load_policy(teams)
    tokens = Tokens(policy, unauthenticated=allow_unauthenticated)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    store = Store(directory)
    packages = Packages(store.directory / "packages", PACKAGE_LIMIT_BYTES)
    app = make_app(store, packages, policy, Dispatcher(store, packages, policy, address), tokens)
    uvicorn.run(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=5)
