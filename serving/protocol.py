"""Requests and replies as vLLM knows them. Imported by the engine's process only."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError
from ray.llm._internal.serve.core.configs.openai_api_models import (
    ChatCompletionRequest,
    CompletionRequest,
    EmbeddingCompletionRequest,
    ErrorResponse,
)
from vllm.exceptions import VLLMClientError

from luthier.serving.names import Refused
from luthier.serving.replies import INTERNAL, Failure, Part, invalid, refused
from luthier.serving.spec import Route

logger = logging.getLogger("ray.serve")

_FAILED_EVENT = 'data: {"error":'


def parse(route: Route, body: dict[str, Any]) -> ChatCompletionRequest | CompletionRequest | EmbeddingCompletionRequest:
    """A checked request.

    Raises:
        ValidationError, VLLMClientError, Refused: A field is wrong.
    """
    if route == "completions":
        return CompletionRequest.model_validate(body)
    if route == "embeddings":
        return EmbeddingCompletionRequest.model_validate(body)
    request = ChatCompletionRequest.model_validate(body)
    for number, message in enumerate(request.messages):
        for field in ("content", "tool_calls"):
            if message.get(field) is not None and not isinstance(message[field], str):
                message[field] = _read(message[field], ("messages", number, field))
    return request


def _read(values: Iterable[Any], place: tuple[str | int, ...]) -> list[Any]:
    """A field of several parts, which pydantic checks only when it is read.

    Raises:
        Refused: A part is wrong.
    """
    try:
        return list(values)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
        raise Refused(invalid([{**problem, "loc": (*place, *problem["loc"])}])) from error


def plain(part: Any) -> Part:
    """A reply that can be sent to a process without vLLM."""
    if isinstance(part, ErrorResponse):
        return refused(part.error.code, part.error.message, part.error.param)
    if not isinstance(part, str):
        whole: dict[str, Any] = part.model_dump(mode="json")
        return whole
    if part.startswith(_FAILED_EVENT):
        # A stream's fault that showed after vLLM had taken the request.
        error = json.loads(part.removeprefix("data: "))["error"]
        return refused(error["code"], error["message"], error.get("param"))
    return part


def failure_of(error: Exception) -> Failure:
    """What to tell of an exception; the log tells the rest."""
    if isinstance(error, Refused):
        return error.failure
    if isinstance(error, ValidationError):
        return invalid(error.errors(include_url=False, include_input=False, include_context=False))
    if isinstance(error, VLLMClientError):
        return refused(400, str(error), getattr(error, "parameter", None))
    logger.error("a request failed", exc_info=error)
    return INTERNAL
