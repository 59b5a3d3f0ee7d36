"""After the last of these tests nothing is left of the endpoint. Its name keeps this file behind the others."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import pytest

from luthier.serving import stop
from tests.integration.serving.conftest import Live


def engines() -> list[int]:
    """Processes of this machine that run vLLM's core, or from which it was forked."""
    commands = {path.parent.name: path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()}
    return [int(pid) for pid, command in commands.items() if b"VLLM::" in command or b"forkserver" in command]


def test_nothing_is_left_after_the_stop(live: Live) -> None:
    assert engines()
    stop(live.endpoint)
    with pytest.raises(httpx.ConnectError):
        httpx.get(live.endpoint.base_url)
    deadline = time.monotonic() + 20
    while engines() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert engines() == []
