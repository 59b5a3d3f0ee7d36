"""Joining a cluster that listens on the loopback address only, as ``luthier cluster up`` starts one.

Ray takes 127.0.0.1 in an address for the machine's address on its network, where such a cluster does not listen. A variable
stops that, which Ray reads when it is imported.
"""

from __future__ import annotations

import os
import socket

LOOPBACK_VARIABLE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""By its name for other systems; 0: this machine's address is 127.0.0.1."""

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_TIMEOUT_S = 1.0


def keep_loopback(address: str) -> None:
    """Have Ray, not imported yet, join an address of this machine as it stands, where nothing listens on another."""
    host, _, port = address.rpartition(":")
    if host.strip("[]") in _LOOPBACK and port.isdigit() and _only_on_loopback(int(port)):
        os.environ.setdefault(LOOPBACK_VARIABLE, "0")


def _only_on_loopback(port: int) -> bool:
    return _listens("127.0.0.1", port) and not _listens(_network_address(), port)


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=_TIMEOUT_S).close()
    except OSError:
        return False
    return True


def _network_address() -> str:
    """The address from which this machine would send to its network; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # of a network that is kept for documentation
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])
