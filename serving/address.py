"""Where an endpoint listens, and how clients reach it."""

from __future__ import annotations

import socket

from luthier.errors import ConfigError

_EVERY_INTERFACE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def require_free_port(host: str, port: int) -> None:
    """Refuse an address that can't be listened on.

    Args:
        host: Name or address, of either IP version.
        port: TCP port.

    Raises:
        ConfigError: Something listens there already, or the host is none of this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise ConfigError(
            f"serve.host: {host!r} can't be resolved ({error.strerror}); set an address of this machine."
        ) from error
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            raise ConfigError(
                f"serve.port: {host}:{port} can't be listened on ({error.strerror}); set serve.port to a free port."
            ) from error


def base_url(host: str, port: int, prefix: str = "/") -> str:
    """The ``/v1`` URL for clients on this machine, of an endpoint that listens on ``host``."""
    reached = _EVERY_INTERFACE.get(host, host)
    shown = f"[{reached}]" if ":" in reached else reached
    return f"http://{shown}:{port}{prefix.rstrip('/')}/v1"
