"""The form of a captured request: what of a request and its answer is kept."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from luthier.pii import Redactor

SCHEMA_VERSION = 1


def captured(
    facts: Mapping[str, Any], asked: Mapping[str, Any], parts: Iterable[Any], redactor: Redactor
) -> dict[str, Any]:
    """A request as it is kept.

    Args:
        facts: What the request log tells of it.
        asked: Its ``messages``, or its ``prompt``.
        parts: The whole answer, or the events of a stream.
        redactor: A new one, whose counts go with it.
    """
    said = {"messages": [_message(one, redactor) for one in asked["messages"]]} if "messages" in asked else {}
    if "prompt" in asked:
        said = {"prompt": redactor.value(asked["prompt"])}
    answers = [_answer(one, redactor) for one in _choices(parts)]
    # A client may choose the id of its request.
    known = {**facts, "request_id": redactor.text(facts["request_id"])}
    return {"schema_version": SCHEMA_VERSION, **known, **said, "answers": answers, "redacted": dict(redactor.counts)}


def _message(message: Mapping[str, Any], redactor: Redactor) -> dict[str, Any]:
    """A turn, without the name of who speaks."""
    kept: dict[str, Any] = {"role": message["role"], "content": redactor.value(message.get("content"))}
    if calls := message.get("tool_calls"):
        kept["tool_calls"] = [_call(one["function"], redactor) for one in calls]
    return kept


def _answer(choice: Mapping[str, Any], redactor: Redactor) -> dict[str, Any]:
    kept: dict[str, Any] = {"content": redactor.value(choice["content"]), "finish_reason": choice["finish_reason"]}
    if choice["tool_calls"]:
        kept["tool_calls"] = [_call(one, redactor) for one in choice["tool_calls"].values()]
    return kept


def _call(function: Mapping[str, Any], redactor: Redactor) -> dict[str, Any]:
    return {"name": function.get("name"), "arguments": redactor.json_text(function.get("arguments") or "")}


def _choices(parts: Iterable[Any]) -> list[dict[str, Any]]:
    """The answers, by their index, put together of what came."""
    found: dict[int, dict[str, Any]] = {}
    for part in parts:
        for choice in _plain(part).get("choices") or ():
            one = found.setdefault(choice.get("index", 0), {"content": None, "tool_calls": {}, "finish_reason": None})
            _add(one, choice)
    return [found[index] for index in sorted(found)]


def _plain(part: Any) -> dict[str, Any]:
    """A whole answer, or one event's content."""
    if isinstance(part, dict):
        return part
    told = str(part).removeprefix("data: ").strip()
    content = {} if told == "[DONE]" else json.loads(told)
    return content if isinstance(content, dict) else {}


def _add(one: dict[str, Any], choice: Mapping[str, Any]) -> None:
    said = choice.get("message") or choice.get("delta") or {}
    text = choice.get("text") if "text" in choice else said.get("content")
    if text is not None:
        one["content"] = (one["content"] or "") + text
    one["finish_reason"] = choice.get("finish_reason") or one["finish_reason"]
    for number, call in enumerate(said.get("tool_calls") or ()):
        function = call.get("function") or {}
        held = one["tool_calls"].setdefault(call.get("index", number), {"name": None, "arguments": ""})
        held["name"] = function.get("name") or held["name"]
        held["arguments"] += function.get("arguments") or ""
