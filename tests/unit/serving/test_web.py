"""The web application: keys, names, and every error in OpenAI's form. In the engine's place stands a function."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from ray.serve.exceptions import BackPressureError
from starlette.testclient import TestClient

from luthier.serving.ingress import key_digest, make_app
from luthier.serving.names import Names
from luthier.serving.replies import Failure, Part
from luthier.serving.spec import Route

KEY = "secret"
ROUTES = ["/v1/models", "/v1/models/demo", "/v1/chat/completions", "/v1/completions", "/", "/docs", "/v2/none"]
NAMES = Names({"demo": "demo@2", "demo@2": "demo@2", "a--b": "a--b"}, {"demo@2": "a--b", "a--b": "a--b"}, 512, 7)


async def echo(route: Route, model: str, body: dict[str, Any]) -> AsyncIterator[Part]:
    """Answers with what reached it; a request may ask for a fault."""
    if body.get("user") == "full":
        raise BackPressureError(1, 1)
    if body.get("user") == "broken":
        raise RuntimeError("/secret/path")
    if body.get("user") == "refused":
        yield Failure(400, "max_tokens: too many", param="max_tokens")
    elif body.get("stream"):
        yield "data: {}\n\n"
        if body.get("user") == "late":
            yield Failure(400, "too long")
        yield "data: [DONE]\n\n"
    else:
        yield {"route": route, "model": model, "body": body}


@pytest.fixture
def client() -> TestClient:
    return TestClient(
        make_app(key_digest(KEY), NAMES, echo),
        headers={"authorization": f"Bearer {KEY}"},
        raise_server_exceptions=False,
    )


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"])
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("given", [None, "Bearer wrong", f"Basic {KEY}", KEY, "Bearer", f"Bearer {KEY}x"])
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
    reply = client.post("/v1/chat/completions", json={"model": "demo", "messages": []}).json()
    assert (reply["route"], reply["model"], reply["body"]["model"]) == ("chat", "demo@2", "demo@2")
    assert client.post("/v1/completions", json={"model": "a--b"}).json()["route"] == "completions"


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
        (b"{}", 400, "give one of a--b, demo, demo@2", None),
        (b'{"model": 3}', 400, "give one of", None),
        (b'{"model": null}', 400, "give one of", None),
        (b'{"model": "demo@9"}', 404, "'demo@9' does not exist; models are a--b, demo, demo@2", "model_not_found"),
    ],
)
def test_bad_requests_are_told_apart(
    client: TestClient, body: bytes, status: int, named: str, code: str | None
) -> None:
    for route in ("/v1/chat/completions", "/v1/completions"):
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
        reply = client.post("/v1/completions", json={"model": "demo", "user": "refused", "stream": stream})
        assert reply.status_code == 400
        assert reply.json()["error"] == {
            "message": "max_tokens: too many",
            "type": "invalid_request_error",
            "param": "max_tokens",
            "code": None,
        }


def test_a_full_queue_says_when_to_come_again(client: TestClient) -> None:
    reply = client.post("/v1/completions", json={"model": "demo", "user": "full"})
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")


def test_a_fault_of_the_servers_own_tells_nothing_of_it(client: TestClient) -> None:
    reply = client.post("/v1/completions", json={"model": "demo", "user": "broken"})
    assert reply.status_code == 500
    assert "secret" not in reply.text
    assert "Error" not in reply.json()["error"]["message"]


def test_streams_pass_through_and_tell_a_late_fault(client: TestClient) -> None:
    ask = {"model": "demo", "stream": True}
    whole = client.post("/v1/chat/completions", json=ask)
    assert whole.headers["content-type"].startswith("text/event-stream")
    assert whole.text == "data: {}\n\ndata: [DONE]\n\n"
    late = client.post("/v1/chat/completions", json={**ask, "user": "late"}).text
    assert '"too long"' in late
    assert late.endswith("data: [DONE]\n\n")
