"""Requests without personal data: every text that a model may see is changed, and nothing else."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from starlette.testclient import TestClient

from luthier.config.checks import RedactionConfig
from luthier.config.serve import ServeConfig
from luthier.errors import ConfigError
from luthier.serving.admission import Admission
from luthier.serving.keys import ApiKey, KeyRing, digest_of
from luthier.serving.names import Ability, Names
from luthier.serving.redacting import redact_by
from luthier.serving.replies import Part
from luthier.serving.spec import Route
from luthier.serving.web import make_app

KEY = "secret"
NAMES = Names({"demo": "demo@2"}, {"demo@2": "a--b"}, {"a--b": Ability("generate", 512)}, 7, {})
CALL = {"id": "1", "type": "function", "function": {"name": "send", "arguments": '{"to": "jane@example.com"}'}}


def client(seen: list[dict[str, Any]], settings: RedactionConfig | None) -> TestClient:
    async def answer(route: Route, model: str, body: dict[str, Any]) -> AsyncGenerator[Part]:
        seen.append(body)
        yield {"choices": []}

    redact = redact_by(settings) if settings else None
    keys = KeyRing(ApiKey(name="master", sha256=digest_of(KEY)), None)
    app = make_app(ServeConfig(), keys, lambda: NAMES, answer, Admission(8), redact=redact)
    return TestClient(app, base_url="http://127.0.0.1", headers={"Authorization": f"Bearer {KEY}"})


def asked(
    body: dict[str, Any], settings: RedactionConfig | None = None, path: str = "chat/completions"
) -> dict[str, Any]:
    """What of a request reached the engine."""
    seen: list[dict[str, Any]] = []
    reply = client(seen, settings).post(f"/v1/{path}", json={"model": "demo", **body})
    assert reply.status_code == 200, reply.text
    return seen[0]


def test_every_part_of_a_conversation_is_changed() -> None:
    parts: Any = [{"type": "text", "text": "or 203.0.113.57"}, {"type": "text", "text": "?"}]
    turns: list[dict[str, Any]] = [
        {"role": "system", "content": "You serve jane@example.com"},
        {"role": "user", "content": parts, "name": "jane@example.com"},
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "1", "content": "sent to jane@example.com"},
    ]
    messages: list[Any] = asked({"messages": turns}, RedactionConfig())["messages"]
    assert "jane" not in json.dumps(messages) and "203" not in json.dumps(messages)
    assert messages[0]["content"] == "You serve <EMAIL>"
    assert [part["text"] for part in messages[1]["content"]] == ["or <IP>", "?"]
    assert json.loads(messages[2]["tool_calls"][0]["function"]["arguments"]) == {"to": "<EMAIL>"}
    assert [one["role"] for one in messages] == [one["role"] for one in turns]


@pytest.mark.parametrize(
    ("given", "kept"), [("I am jane@example.com", "I am <EMAIL>"), (["a@b.co", "why?"], ["<EMAIL>", "why?"])]
)
def test_prompts_are_changed(given: Any, kept: Any) -> None:
    assert asked({"prompt": given}, RedactionConfig(), "completions")["prompt"] == kept
    assert asked({"prompt": given}, None, "completions")["prompt"] == given


def test_token_ids_hide_nothing() -> None:
    seen: list[dict[str, Any]] = []
    for prompt in ([1, 2], [[1, 2]]):
        reply = client(seen, RedactionConfig()).post("/v1/completions", json={"model": "demo", "prompt": prompt})
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, "prompt")
    assert not seen
    assert asked({"prompt": [1, 2]}, None, "completions")["prompt"] == [1, 2]


def test_digests_need_their_key(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = RedactionConfig(way="hash", hash_key_env="DATA_KEY")
    monkeypatch.delenv("DATA_KEY", raising=False)
    with pytest.raises(ConfigError, match=r"serve\.redact_requests\.hash_key_env: environment variable DATA_KEY"):
        redact_by(settings)
    monkeypatch.setenv("DATA_KEY", "k")
    told = redact_by(settings)({"prompt": ["a@b.co", "A@b.co", "c@b.co"]})["prompt"]
    assert told[0] == told[1] != told[2]
