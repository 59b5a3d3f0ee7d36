"""Texts that are embedded or classified: what the routes take, and that a model is asked for what it does."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import openai
import pytest
from starlette.testclient import TestClient

from luthier.config.serve import LimitsConfig, ServeConfig
from luthier.serving.admission import Admission
from luthier.serving.classifier_replica import reply
from luthier.serving.keys import KeyRing
from luthier.serving.record import Record
from luthier.serving.spec import PATHS
from luthier.serving.web import make_app
from tests.unit.serving.test_web import CHAT, KEY, MASTER, NAMES, TEXT, make_client

EMBED: dict[str, Any] = {"model": "vectors", "input": "hello"}
SORT: dict[str, Any] = {"model": "sorter", "input": "hello"}


@pytest.fixture
def client() -> TestClient:
    return make_client()


def test_cards_tell_what_a_model_does_and_reads(client: TestClient) -> None:
    told = {card["id"]: (card["tasks"], card["max_model_len"]) for card in client.get("/v1/models").json()["data"]}
    assert told["demo"] == told["demo@2"] == (["generate"], 512)
    assert (told["sorter"], told["vectors"]) == ((["classify"], 128), (["embed"], 256))


@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        (PATHS["chat"], {**CHAT, "model": "sorter"}, "answers no messages; it classifies texts: POST /v1/classify"),
        (
            PATHS["completions"],
            {**TEXT, "model": "vectors"},
            "completes no texts; it embeds texts: POST /v1/embeddings",
        ),
        (
            PATHS["embeddings"],
            {**EMBED, "model": "demo"},
            "does not embed; it generates text: POST /v1/chat/completions",
        ),
        (PATHS["embeddings"], {**EMBED, "model": "sorter"}, "does not embed; it classifies texts"),
        (PATHS["classify"], {**SORT, "model": "demo"}, "does not classify; it generates text"),
        (PATHS["classify"], {**SORT, "model": "vectors"}, "does not classify; it embeds texts"),
    ],
)
def test_a_model_that_is_asked_for_what_it_does_not_do_says_what_it_does(
    client: TestClient, path: str, body: dict[str, Any], told: str
) -> None:
    refused = client.post(path, json=body)
    error = refused.json()["error"]
    assert (refused.status_code, error["param"], error["code"]) == (400, "model", "model_not_supported")
    assert told in error["message"]


@pytest.mark.parametrize(
    "given", ["hello", ["hello", "you"], [1, 2, 3], [[1], [2, 3]]], ids=["text", "texts", "tokens", "token lists"]
)
def test_what_can_be_embedded(client: TestClient, given: Any) -> None:
    asked = {**EMBED, "input": given, "encoding_format": "base64", "dimensions": 8, "user": "u"}
    answer = client.post("/v1/embeddings", json=asked).json()
    assert (answer["route"], answer["model"], answer["body"]) == ("embeddings", "vectors", asked)


@pytest.mark.parametrize("given", ["hello", ["hello", "you"]])
def test_what_can_be_classified(client: TestClient, given: Any) -> None:
    asked = {**SORT, "input": given, "truncate_prompt_tokens": -1}
    answer = client.post("/v1/classify", json=asked).json()
    assert (answer["route"], answer["model"]) == ("classify", "sorter@1")
    assert answer["body"] == {**asked, "model": "sorter@1"}


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a"] * 3}, "input: 3 texts; this endpoint allows 2"),
        ({"input": {"text": "a"}}, "input"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        ({"truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
        ({"chat_template": "{{ x }}"}, "chat_template"),
        ({"messages": []}, "messages"),
        ({"stream": True}, "stream"),
    ],
)
def test_what_a_request_may_not_ask_for_is_named(fields: dict[str, Any], named: str) -> None:
    client = make_client(limits=LimitsConfig(max_prompts=2))
    for path, asked in ((PATHS["embeddings"], EMBED), (PATHS["classify"], SORT)):
        refused = client.post(path, json={**asked, **fields})
        assert refused.status_code == 400
        assert named in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    "fields",
    [{"input": [[1], []]}, {"input": [-1]}, {"dimensions": 0}, {"encoding_format": "bytes"}, {"input": [[1]] * 3}],
)
def test_what_can_not_be_embedded_is_refused(fields: dict[str, Any]) -> None:
    client = make_client(limits=LimitsConfig(max_prompts=2))
    assert client.post("/v1/embeddings", json={**EMBED, **fields}).status_code == 400
    assert client.post("/v1/embeddings", json={**EMBED, "input": [1] * 50}).status_code == 200  # one text of 50 tokens


def test_the_openai_client_reads_the_answers_and_their_tokens_are_counted() -> None:
    scores = {"mail": 0.25, "net": 0.75}
    seen: list[Record] = []

    async def ask() -> Any:
        async def answer(route: Any, model: str, body: dict[str, Any]) -> Any:
            yield reply(model, tuple(scores), [list(scores.values())] * 2, 7)

        app = make_app(ServeConfig(), KeyRing(MASTER), lambda: NAMES, answer, Admission(8), observe=seen.append)
        http: Any = httpx.AsyncClient(transport=httpx.ASGITransport(app))
        async with openai.AsyncOpenAI(base_url="http://localhost/v1", api_key=KEY, http_client=http) as client:
            return await client.post("/classify", body={**SORT, "input": ["a", "b"]}, cast_to=object)

    told = asyncio.run(ask())
    assert (told["object"], told["model"], [one["index"] for one in told["data"]]) == ("list", "sorter@1", [0, 1])
    assert told["data"][1] == {"index": 1, "label": "net", "probs": [0.25, 0.75], "num_classes": 2, "scores": scores}
    (record,) = seen
    assert (record.route, record.model, record.prompt_tokens, record.completion_tokens) == (
        "classify",
        "sorter@1",
        7,
        0,
    )


def test_each_request_leaves_a_record_and_takes_a_place() -> None:
    seen: list[Record] = []
    client = make_client(seen=seen, capacity=0)
    assert client.post("/v1/classify", json=SORT).status_code == 429
    assert client.post("/v1/embeddings", json={**EMBED, "user": "full"}).status_code == 429
    assert [(one.route, one.status) for one in seen] == [("classify", 429), ("embeddings", 429)]
