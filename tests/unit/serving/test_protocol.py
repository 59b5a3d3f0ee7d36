"""Requests are checked as vLLM checks them, and no message repeats what a request held."""

from __future__ import annotations

import json
from typing import Any

import pytest

from luthier.serving.replies import INTERNAL, Failure, invalid, refused
from luthier.serving.spec import Route

SECRET = "the patient's name"


def refusal(route: Route, body: dict[str, Any]) -> Failure:
    from luthier.serving.protocol import failure_of, parse

    with pytest.raises(Exception) as raised:  # pydantic's or vLLM's; what becomes of it is the test
        parse(route, {"model": "demo", **body})
    return failure_of(raised.value)


@pytest.mark.parametrize(
    ("route", "body", "named"),
    [
        ("chat", {}, "messages"),
        ("chat", {"messages": SECRET}, "messages"),
        ("chat", {"messages": [{"role": "user", "content": 5}]}, "content"),
        ("chat", {"messages": [{"role": "user", "content": [SECRET]}]}, "content"),
        ("chat", {"messages": [{"content": SECRET}]}, "messages"),
        ("chat", {"messages": [], "temperature": SECRET}, "temperature"),
        ("chat", {"messages": [], "n": "many"}, "n"),
        ("chat", {"messages": [], "stream_options": {"include_usage": True}}, "stream"),
        ("completions", {"prompt": "a", "max_tokens": SECRET}, "max_tokens"),
        ("completions", {"prompt": {"a": SECRET}}, "prompt"),
    ],
)
def test_a_bad_field_is_named_and_its_value_is_not(route: Route, body: dict[str, Any], named: str) -> None:
    failure = refusal(route, body)
    assert failure.status == 400
    assert failure.type == "invalid_request_error"
    assert named in failure.message
    assert SECRET not in json.dumps(failure.body())
    assert "pydantic" not in failure.message


def test_a_good_request_keeps_its_fields() -> None:
    from luthier.serving.protocol import parse

    parts = [{"type": "text", "text": "hello"}]
    request = parse("chat", {"model": "demo", "messages": [{"role": "user", "content": parts}], "max_tokens": 3})
    assert request.max_tokens == 3
    assert request.messages[0]["content"] == parts  # read already, so that it can be read again


def test_an_unforeseen_fault_tells_nothing() -> None:
    from luthier.serving.protocol import failure_of

    assert failure_of(RuntimeError(SECRET)) == INTERNAL


def test_a_streams_error_event_is_a_failure_and_other_events_pass() -> None:
    from luthier.serving.protocol import plain

    told = {"error": {"message": "too many (parameter=top_logprobs, value=50)", "type": "x", "param": "p", "code": 400}}
    assert plain(f"data: {json.dumps(told)}\n\n") == Failure(400, "too many", param="p")
    event = 'data: {"id": "1", "choices": []}\n\n'
    assert plain(event) == event


def test_values_that_vllm_repeats_are_cut() -> None:
    assert refused(400, f"bad prompt (parameter=prompt, value={SECRET})").message == "bad prompt"
    long = f"1 error\nfield\n  wrong [type=int, input_value='{SECRET}', input_type=str]\n    For further information"
    assert SECRET not in refused(400, long).message
    assert refused(500, SECRET) == INTERNAL


def test_names_of_classes_are_left_out_of_a_field() -> None:
    problem = {"loc": ("messages", 0, "ChatCompletionUserMessageParam", "content", "str"), "msg": "wrong"}
    assert invalid([problem]).param == "messages.0.content.str"
