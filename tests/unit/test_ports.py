"""Ports: free ones, and none that the kernel or Ray hands out meanwhile."""

from __future__ import annotations

import socket

import pytest

from luthier import ports
from luthier.errors import ResourceError

pytestmark = pytest.mark.unit


def test_a_free_port_can_be_listened_on() -> None:
    with socket.create_server(("127.0.0.1", ports.free_port())) as server:
        assert 20_000 <= server.getsockname()[1] < 32_768


def test_a_taken_port_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", ports.free_port())) as server:
        taken = server.getsockname()[1]
        monkeypatch.setattr(ports, "_QUIET", range(taken, taken + 1))
        monkeypatch.setattr(ports, "_TRIES", 1)
        with pytest.raises(ResourceError, match=f"{taken}"):
            ports.free_port()
