"""Requests without the personal data in them, as the training rows were without it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from luthier.config.checks import RedactionConfig
from luthier.pii import Redactor
from luthier.pii.configured import key_of, redactor_of
from luthier.serving.names import Refused
from luthier.serving.replies import Failure

Redact = Callable[[Mapping[str, Any]], dict[str, Any]]
"""Takes it out of a request's fields."""


def redact_by(settings: RedactionConfig) -> Redact:
    """What changes each request before it reaches an engine.

    Raises:
        ConfigError: The key is not there.
    """
    key = key_of(settings, "serve.redact_requests")
    return lambda fields: redacted(fields, redactor_of(settings, key))


def redacted(fields: Mapping[str, Any], redactor: Redactor) -> dict[str, Any]:
    """A checked request's fields: its messages, prompts and texts are changed, nothing else.

    Raises:
        Refused: It has token ids in place of text.
    """
    changed = dict(fields)
    if "messages" in fields:
        changed["messages"] = [_message(one, redactor) for one in fields["messages"]]
    for name in ("prompt", "input"):
        if name in fields:
            changed[name] = _texts(fields[name], name, redactor)
    return changed


def _message(message: Mapping[str, Any], redactor: Redactor) -> dict[str, Any]:
    """A turn with whatever a chat template may write of it."""
    changed = dict(message)
    if "name" in message:
        changed["name"] = redactor.text(message["name"])
    content = message.get("content")
    if isinstance(content, str):
        changed["content"] = redactor.text(content)
    elif content is not None:
        changed["content"] = [{**part, "text": redactor.text(part["text"])} for part in content]
    if "tool_calls" in message:
        changed["tool_calls"] = [_call(one, redactor) for one in message["tool_calls"]]
    return changed


def _call(call: Mapping[str, Any], redactor: Redactor) -> dict[str, Any]:
    function = call["function"]
    return {**call, "function": {**function, "arguments": redactor.json_text(function["arguments"])}}


def _texts(given: Any, name: str, redactor: Redactor) -> Any:
    if isinstance(given, str):
        return redactor.text(given)
    if not all(isinstance(one, str) for one in given):
        raise Refused(
            Failure(
                400,
                f"{name}: token ids can't be searched for personal data, as this endpoint does; send text.",
                param=name,
            )
        )
    return [redactor.text(one) for one in given]
