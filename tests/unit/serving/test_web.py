"""The web application: keys, names, and every error in OpenAI's form. In the engine's place stands a function."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from luthier.config.serve import LimitsConfig, ServeConfig
from luthier.serving.admission import Admission
from luthier.serving.keys import ApiKey, KeyRing, add_key, digest_of
from luthier.serving.names import Ability, Names
from luthier.serving.openapi import describe
from luthier.serving.record import Record
from luthier.serving.replies import Failure, Part
from luthier.serving.spec import PATHS, Route
from luthier.serving.web import make_app

KEY = "secret"
MASTER = ApiKey(name="master", sha256=digest_of(KEY))
ROUTES = ["/", "/docs", "/v2/none", *(path for path in describe()["paths"] if path != "/health")]
NAMES = Names(
    {"demo": "demo@2", "demo@2": "demo@2", "a--b": "a--b", "sorter": "sorter@1", "vectors": "vectors"},
    {"demo@2": "a--b", "a--b": "a--b", "sorter@1": "sorter@1", "vectors": "vectors"},
    {"a--b": Ability("generate", 512), "sorter@1": Ability("classify", 128), "vectors": Ability("embed", 256)},
    7,
    {"demo@1": "its rank is too large"},
)
HELLO = [{"role": "user", "content": "hello"}]
CHAT = {"model": "demo", "messages": HELLO}
TEXT = {"model": "demo", "prompt": "hello"}


async def echo(route: Route, model: str, body: dict[str, Any]) -> AsyncGenerator[Part]:
    """Answers with what reached it; a request may ask for a fault."""
    user = body.get("user")
    if user == "full":
        raise OverflowError
    if user == "broken":
        raise RuntimeError("/secret/path")
    if user == "slow":
        await asyncio.sleep(60)
    if user == "refused":
        yield Failure(400, "max_tokens: too many", param="max_tokens")
    elif body.get("stream"):
        yield "data: {}\n\n"
        if user == "late":
            yield Failure(400, "too long")
        if user == "dies":
            raise RuntimeError("/secret/path")
        if user == "stalls":
            await asyncio.sleep(60)
        yield "data: [DONE]\n\n"
    else:
        yield {"route": route, "model": model, "body": body}


def make_client(keys: KeyRing | None = None, *, capacity: int = 8, **settings: Any) -> TestClient:
    seen: list[Record] = settings.pop("seen", [])
    app = make_app(
        ServeConfig(**settings), keys or KeyRing(MASTER), lambda: NAMES, echo, Admission(capacity), observe=seen.append
    )
    headers = {"authorization": f"Bearer {KEY}"}
    return TestClient(app, "http://127.0.0.1:8000", headers=headers, raise_server_exceptions=False)


@pytest.fixture
def client() -> TestClient:
    return make_client()


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"])
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("given", [None, "Bearer wrong", f"Basic {KEY}", "Basic !", KEY, "Bearer", f"Bearer {KEY}x"])
def test_no_route_answers_without_the_key(client: TestClient, method: str, route: str, given: str | None) -> None:
    del client.headers["authorization"]
    reply = client.request(method, route, headers={} if given is None else {"authorization": given})
    assert reply.status_code == 401
    assert reply.headers["www-authenticate"] == "Bearer"
    if method == "HEAD":
        assert not reply.content
    else:
        assert reply.json()["error"]["code"] == "invalid_api_key"


def test_the_scheme_is_read_in_any_case(client: TestClient) -> None:
    assert client.get("/v1/models", headers={"authorization": f"bEARER  {KEY} "}).status_code == 200


def test_every_name_is_listed_with_what_it_leads_to(client: TestClient) -> None:
    listed = client.get("/v1/models").json()
    assert {card["id"]: card["root"] for card in listed["data"]} == NAMES.canonical
    assert "/" not in str(listed)  # no path of a file


@pytest.mark.parametrize("name", ["a--b", "demo", "demo@2"])
def test_one_model_by_any_of_its_names(client: TestClient, name: str) -> None:
    card = client.get(f"/v1/models/{name}")
    assert (card.status_code, card.json()["id"]) == (200, name)


def test_the_engine_is_asked_by_the_canonical_name(client: TestClient) -> None:
    reply = client.post("/v1/chat/completions", json=CHAT).json()
    assert (reply["route"], reply["model"], reply["body"]["model"]) == ("chat", "demo@2", "demo@2")
    assert client.post("/v1/completions", json={**TEXT, "model": "a--b"}).json()["route"] == "completions"


@pytest.mark.parametrize(
    ("body", "status", "named", "code"),
    [
        (b"", 400, "JSON", None),
        (b"{", 400, "JSON", None),
        (b'{"model": "demo", "temperature": NaN}', 400, "JSON", None),
        (b'{"model": "demo", "temperature": -Infinity}', 400, "JSON", None),
        (b'{"model": "\xff"}', 400, "JSON", None),
        (b"[" * 100_000, 400, "JSON", None),
        (b"[]", 400, "object", None),
        (b"{}", 400, "give one of a--b, demo, demo@2, sorter, vectors", None),
        (b'{"model": 3}', 400, "give one of", None),
        (b'{"model": null}', 400, "give one of", None),
        (
            b'{"model": "demo@9"}',
            404,
            "'demo@9' does not exist; models are a--b, demo, demo@2, sorter, vectors",
            "model_not_found",
        ),
    ],
)
def test_bad_requests_are_told_apart(
    client: TestClient, body: bytes, status: int, named: str, code: str | None
) -> None:
    for route in PATHS.values():
        reply = client.post(route, content=body)  # without a content type, which is not needed
        error = reply.json()["error"]
        assert (reply.status_code, error["type"], error["code"]) == (status, "invalid_request_error", code)
        assert named in error["message"]


def test_a_long_model_name_is_not_repeated_whole(client: TestClient) -> None:
    reply = client.post("/v1/completions", json={"model": "x" * 10_000})
    assert reply.status_code == 404
    assert len(reply.text) < 500


@pytest.mark.parametrize(
    ("method", "route", "status"),
    [("GET", "/v1/none", 404), ("POST", "/v1/models", 405), ("GET", "/v1/completions", 405), ("GET", "/docs", 404)],
)
def test_unknown_routes_are_told_in_the_same_form(client: TestClient, method: str, route: str, status: int) -> None:
    reply = client.request(method, route)
    assert reply.status_code == status
    assert route in reply.json()["error"]["message"]


def test_what_the_engine_refuses_keeps_its_status_and_field(client: TestClient) -> None:
    for stream in (False, True):
        reply = client.post("/v1/completions", json={**TEXT, "user": "refused", "stream": stream})
        assert reply.status_code == 400
        assert reply.json()["error"] == {
            "message": "max_tokens: too many",
            "type": "invalid_request_error",
            "param": "max_tokens",
            "code": None,
        }


def test_a_full_queue_says_when_to_come_again(client: TestClient) -> None:
    reply = client.post("/v1/completions", json={**TEXT, "user": "full"})
    assert (reply.status_code, reply.headers["retry-after"]) == (429, "1")


def test_a_fault_of_the_servers_own_tells_nothing_of_it(client: TestClient) -> None:
    reply = client.post("/v1/completions", json={**TEXT, "user": "broken"})
    assert reply.status_code == 500
    assert "secret" not in reply.text
    assert "Error" not in reply.json()["error"]["message"]


def test_a_stream_passes_through(client: TestClient) -> None:
    whole = client.post("/v1/chat/completions", json={**CHAT, "stream": True})
    assert whole.headers["content-type"].startswith("text/event-stream")
    assert whole.text == "data: {}\n\ndata: [DONE]\n\n"


@pytest.mark.parametrize(("user", "told"), [("late", "too long"), ("dies", "failed to answer"), ("stalls", "longer")])
def test_a_stream_that_fails_ends_with_an_error_and_is_never_called_done(user: str, told: str) -> None:
    reply = make_client(request_timeout_s=0.2).post("/v1/chat/completions", json={**CHAT, "stream": True, "user": user})
    first, last = reply.text.strip().split("\n\n")
    assert first == "data: {}"
    assert told in json.loads(last.removeprefix("data: "))["error"]["message"]
    assert "secret" not in reply.text


def test_an_answer_that_takes_too_long_is_given_up() -> None:
    reply = make_client(request_timeout_s=0.2).post("/v1/completions", json={**TEXT, "user": "slow"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (408, "timeout")


def test_health_is_told_without_a_key(client: TestClient) -> None:
    del client.headers["authorization"]
    assert client.get("/health", headers={"host": "10.1.2.3"}).json() == {"status": "ok"}


def test_a_browser_is_asked_for_the_key_as_a_password(client: TestClient) -> None:
    del client.headers["authorization"]
    refused = client.get("/v1/models", headers={"accept": "text/html"})
    assert refused.headers["www-authenticate"].startswith("Basic ")
    assert client.get("/v1/models", auth=("anyone", KEY)).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "127.0.0.1:8000"}, 200),
        ({"host": "localhost"}, 200),
        ({"host": "[::1]:8000"}, 200),
        ({"host": "models.example.com"}, 200),
        ({"host": "evil.example.com"}, 403),
        ({"host": "localhost.evil.example.com"}, 403),
        ({"host": "[bad"}, 403),
        ({"host": ""}, 403),
        ({"origin": "http://127.0.0.1:8000"}, 200),
        ({"origin": "https://chat.example.com"}, 200),
        ({"origin": "https://evil.example.com"}, 403),
        ({"origin": "null"}, 403),
    ],
)
def test_foreign_hosts_and_pages_are_refused(headers: dict[str, str], status: int) -> None:
    client = make_client(allowed_hosts=["models.example.com"], allowed_origins=["https://chat.example.com"])
    assert client.get("/v1/models", headers=headers).status_code == status


def test_an_allowed_page_may_ask_before_it_sends_the_key() -> None:
    client = make_client(allowed_origins=["https://chat.example.com"])
    del client.headers["authorization"]
    asked = {"origin": "https://chat.example.com", "access-control-request-method": "POST"}
    assert client.options("/v1/chat/completions", headers=asked).status_code == 200
    asked["origin"] = "https://evil.example.com"
    assert client.options("/v1/chat/completions", headers=asked).status_code == 400


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"chat_template": "{{ x }}"}, "chat_template"),
        ({"prompt_embeds": "AAAA"}, "prompt_embeds"),
        ({"mm_processor_kwargs": {}}, "mm_processor_kwargs"),
        ({"messages": []}, "messages"),
        ({"messages": HELLO * 9}, "messages: 9 messages; this endpoint allows 8"),
        ({"messages": [{"role": "user"}]}, "content"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "role"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///"}}]}]},
            "content",
        ),
        ({"n": 3}, "n: 3 answers; this endpoint allows 2"),
        ({"n": 0}, "n"),
        ({"max_tokens": 11}, "max_tokens"),
        ({"max_completion_tokens": 11}, "max_completion_tokens"),
        ({"temperature": 2.1}, "temperature"),
        ({"top_logprobs": 1}, "logprobs"),
        ({"logprobs": True, "top_logprobs": 6}, "top_logprobs"),
        ({"stop": ["a", "b", "c"]}, "stop"),
        ({"stop": [""]}, "stop"),
        ({"seed": 2**64}, "seed"),
        ({"stream_options": {"include_usage": True}}, "stream"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"a": "b" * 100}}}]}, "schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"a": "b" * 100}}}},
            "schema",
        ),
        ({"response_format": {"type": "json_schema"}}, "json_schema"),
    ],
)
def test_what_a_request_may_not_ask_for_is_named(fields: dict[str, Any], named: str) -> None:
    limits = LimitsConfig(max_messages=8, max_n=2, max_tokens=10, max_logprobs=5, max_stop=2, max_schema_bytes=64)
    reply = make_client(limits=limits).post("/v1/chat/completions", json={**CHAT, **fields})
    error = reply.json()["error"]
    assert (reply.status_code, error["type"]) == (400, "invalid_request_error")
    assert named in error["message"]


def test_the_limit_of_tokens_holds_for_requests_that_name_none() -> None:
    client = make_client(limits=LimitsConfig(max_tokens=10))
    assert client.post("/v1/completions", json=TEXT).json()["body"]["max_tokens"] == 10
    assert client.post("/v1/completions", json={**TEXT, "max_tokens": 3}).json()["body"]["max_tokens"] == 3


def test_a_long_body_is_not_read_to_its_end() -> None:
    client = make_client(limits=LimitsConfig(max_body_bytes=2048))
    reply = client.post("/v1/completions", json={**TEXT, "prompt": "x" * 4000})
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "body_too_large")


def test_a_registered_model_that_can_not_be_served_is_told_why(client: TestClient) -> None:
    reply = client.post("/v1/completions", json={**TEXT, "model": "demo@1"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (422, "model_not_servable")
    assert "its rank is too large" in reply.json()["error"]["message"]


def test_a_key_opens_its_models_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    made = add_key(path, "team", ["demo"], None)
    client = make_client(KeyRing(MASTER, path))
    own = {"authorization": f"Bearer {made}"}
    assert client.post("/v1/completions", json=TEXT, headers=own).status_code == 200
    refused = client.post("/v1/completions", json={**TEXT, "model": "a--b"}, headers=own)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "model_not_allowed")
    assert client.post("/v1/completions", json={**TEXT, "model": "none"}, headers=own).status_code == 403
    assert {card["id"] for card in client.get("/v1/models", headers=own).json()["data"]} == {"demo", "demo@2"}
    assert client.get("/v1/models/a--b", headers=own).status_code == 403


def test_a_key_asks_no_oftener_than_it_may(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    made = add_key(path, "team", [], 2)
    client = make_client(KeyRing(MASTER, path))
    own = {"authorization": f"Bearer {made}"}
    statuses = [client.post("/v1/completions", json=TEXT, headers=own) for _ in range(3)]
    assert [one.status_code for one in statuses] == [200, 200, 429]
    assert 25 <= int(statuses[-1].headers["retry-after"]) <= 30
    assert client.post("/v1/completions", json=TEXT).status_code == 200


def test_more_than_the_endpoint_holds_are_told_to_come_again() -> None:
    app = make_app(ServeConfig(request_timeout_s=0.5), KeyRing(MASTER), lambda: NAMES, echo, Admission(2))

    async def ask() -> list[int]:
        headers = {"authorization": f"Bearer {KEY}"}
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers) as client:
            slow = {**TEXT, "user": "slow"}
            replies = await asyncio.gather(*(client.post("/v1/completions", json=slow) for _ in range(3)))
            replies.append(await client.post("/v1/completions", json=TEXT))
            return [reply.status_code for reply in replies]

    *first, last = asyncio.run(ask())
    assert sorted(first) == [408, 408, 429]
    assert last == 200


def test_each_request_leaves_a_record_without_what_was_said() -> None:
    seen: list[Record] = []
    client = make_client(seen=seen, request_timeout_s=0.2)
    for fields in ({}, {"model": "none"}, {"n": 0}, {"user": "broken"}, {"user": "slow"}, {"stream": True}):
        client.post("/v1/chat/completions", json={**CHAT, **fields})
    assert [(record.status, record.model, record.error) for record in seen] == [
        (200, "demo@2", None),
        (404, "", "model_not_found"),
        (400, "demo@2", "invalid_request_error"),
        (500, "demo@2", "server_error"),
        (408, "demo@2", "timeout"),
        (200, "demo@2", None),
    ]
    assert {record.key for record in seen} == {"master"}
    assert len({record.request_id for record in seen}) == len(seen)
    assert "hello" not in str([record.as_dict() for record in seen])


USAGE = 'data: {"id":"x","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":3,"total_tokens":8}}\n\n'


@pytest.mark.parametrize("asks", [True, False])
def test_a_streams_tokens_are_counted_whether_the_client_asks_or_not(asks: bool) -> None:
    seen: list[Record] = []

    async def counted(route: Route, model: str, body: dict[str, Any]) -> AsyncGenerator[Part]:
        assert body["stream_options"] == {"include_usage": True}
        for part in ("data: {}\n\n", USAGE, "data: [DONE]\n\n"):
            yield part

    app = make_app(ServeConfig(), KeyRing(MASTER), lambda: NAMES, counted, Admission(1), observe=seen.append)
    client = TestClient(app, "http://localhost", headers={"authorization": f"Bearer {KEY}"})
    options = {"stream_options": {"include_usage": True}} if asks else {}
    text = client.post("/v1/chat/completions", json={**CHAT, "stream": True, **options}).text
    assert (USAGE in text) is asks
    assert text.endswith("data: [DONE]\n\n")
    (record,) = seen
    assert (record.prompt_tokens, record.completion_tokens, record.stream) == (5, 3, True)
    assert record.token_s is not None
