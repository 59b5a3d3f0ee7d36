from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from luthier.errors import ConfigError
from luthier.serving import require_free_port
from luthier.serving.address import base_url


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_taken_port_is_refused_and_a_free_one_is_left_free(taken: int) -> None:
    with pytest.raises(ConfigError, match=rf"serve.port: 127.0.0.1:{taken} can't be listened on"):
        require_free_port("127.0.0.1", taken)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    require_free_port("localhost", free)
    require_free_port("localhost", free)


def test_a_host_of_another_machine_is_refused() -> None:
    with pytest.raises(ConfigError, match="can't be listened on"):
        require_free_port("203.0.113.7", 8000)
    with pytest.raises(ConfigError, match="can't be resolved"):
        require_free_port("no such host", 8000)


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")
def test_ipv6_is_probed_as_such() -> None:
    with socket.socket(socket.AF_INET6) as listener:
        listener.bind(("::1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(ConfigError, match="can't be listened on"):
            require_free_port("::1", port)


@pytest.mark.parametrize(
    ("host", "prefix", "url"),
    [
        ("127.0.0.1", "/", "http://127.0.0.1:8000/v1"),
        ("0.0.0.0", "/", "http://127.0.0.1:8000/v1"),
        ("::", "/", "http://[::1]:8000/v1"),
        ("fe80::1", "/", "http://[fe80::1]:8000/v1"),
        ("node-3", "/luthier", "http://node-3:8000/luthier/v1"),
    ],
)
def test_the_url_is_one_that_a_client_can_reach(host: str, prefix: str, url: str) -> None:
    assert base_url(host, 8000, prefix) == url
