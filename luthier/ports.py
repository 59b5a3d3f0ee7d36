"""Ports of this machine."""

from __future__ import annotations

import random
import socket

from luthier.errors import ResourceError

_QUIET = range(20_000, 32_768)
"""Between the ports that Ray gives its workers (10002 to 19999) and those that Linux gives to whoever asks for any (32768 and
above): what takes a port without choosing it takes none of these, so one that is free stays so until it is used."""

_TRIES = 100


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on now.

    Raises:
        ResourceError: None was found.
    """
    # The system's own source of chance: two processes that seeded theirs alike would choose alike.
    for port in random.SystemRandom().sample(_QUIET, _TRIES):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise ResourceError(
        f"of {_TRIES} ports of 127.0.0.1 between {_QUIET.start} and {_QUIET.stop - 1} none is free; stop what listens there."
    )
