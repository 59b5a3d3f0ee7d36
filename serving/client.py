"""Requests with the real ``openai`` client."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from luthier.errors import ServingError
from luthier.serving.endpoint import Endpoint


@dataclass(frozen=True)
class ChatReply:
    """An answer, streamed.

    Attributes:
        text: What the model said.
        first_token_s: Seconds to the first piece of text.
        total_s: Seconds to the end.
        completion_tokens: Tokens generated, as the server counts.
    """

    text: str
    first_token_s: float
    total_s: float
    completion_tokens: int


def openai_client(endpoint: Endpoint, api_key: str, timeout_s: float = 120.0) -> Any:
    """The ``openai`` client for an endpoint; it retries nothing, so that faults show."""
    from openai import OpenAI

    return OpenAI(base_url=endpoint.base_url, api_key=api_key, timeout=timeout_s, max_retries=0)


@contextmanager
def told_as_serving_error(what: str) -> Iterator[None]:
    """Turn a failed request into an error of ours.

    Raises:
        ServingError: Names what was asked, and what the endpoint or the network said.
    """
    from openai import APIError

    try:
        yield
    except APIError as error:
        raise ServingError(f"{what} failed: {type(error).__name__}: {error.message}") from error


def classify(
    endpoint: Endpoint, model: str, texts: Sequence[str], api_key: str, cut_to: int | None = None
) -> list[dict[str, float]]:
    """The probability of each label, for each text.

    Args:
        endpoint: Where.
        model: Served name.
        texts: What to classify.
        api_key: The endpoint's key.
        cut_to: Tokens that are read of a text; None: longer ones than the model reads are refused.

    Raises:
        ServingError: The endpoint refused, failed, or can't be reached.
    """
    body: dict[str, Any] = {"model": model, "input": list(texts)}
    if cut_to is not None:
        body["truncate_prompt_tokens"] = cut_to
    with told_as_serving_error(f"a request to {model} at {endpoint.base_url}"):
        reply = openai_client(endpoint, api_key).post("/classify", body=body, cast_to=object)
    return [one["scores"] for one in reply["data"]]


def greet(endpoint: Endpoint, model: str, api_key: str) -> None:
    """Ask for as little as a model can be asked for.

    Raises:
        ServingError: The endpoint refused, failed, or can't be reached.
    """
    task = endpoint.tasks[model]
    if task == "classify":
        classify(endpoint, model, ["Hello"], api_key)
    elif task == "embed":
        with told_as_serving_error(f"a request to {model} at {endpoint.base_url}"):
            openai_client(endpoint, api_key).embeddings.create(model=model, input="Hello")
    else:
        ask(endpoint, model, [{"role": "user", "content": "Hello"}], api_key, 1)


def ask(endpoint: Endpoint, model: str, messages: Sequence[dict[str, str]], api_key: str, max_tokens: int) -> ChatReply:
    """Ask once, greedily, streaming.

    Args:
        endpoint: Where.
        model: Served name.
        messages: Turns with role and content.
        api_key: The endpoint's key.
        max_tokens: Longest answer.

    Raises:
        ServingError: The endpoint refused, failed, or can't be reached.
    """
    began = time.monotonic()
    first: float | None = None
    pieces: list[str] = []
    tokens = 0
    with told_as_serving_error(f"a request to {model} at {endpoint.base_url}"):
        stream = openai_client(endpoint, api_key).chat.completions.create(
            model=model,
            messages=list(messages),
            max_tokens=max_tokens,
            temperature=0.0,
            stream=True,
            stream_options={"include_usage": True},
        )
        for chunk in stream:
            if chunk.usage:
                tokens = chunk.usage.completion_tokens
            text = chunk.choices[0].delta.content if chunk.choices else None
            if text:
                first = first or time.monotonic() - began
                pieces.append(text)
    total = time.monotonic() - began
    return ChatReply("".join(pieces), first or total, total, tokens)
