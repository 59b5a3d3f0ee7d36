"""The web application: routes of the OpenAI API, each behind an API key, and every error in OpenAI's form.

It knows neither Ray nor vLLM nor torch: what answers is a function, and so is what tells the names.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route as HttpRoute
from starlette.types import ASGIApp

from luthier.config.serve import ServeConfig
from luthier.serving.admission import Admission
from luthier.serving.guard import HEALTH, Guard, own_hosts
from luthier.serving.keys import KeyRing
from luthier.serving.names import Names, Refused
from luthier.serving.openapi import describe
from luthier.serving.replies import INTERNAL, OVERLOADED, TIMED_OUT, Failure, Part, invalid, too_often
from luthier.serving.requests import checked
from luthier.serving.spec import Route

logger = logging.getLogger("ray.serve")

Answer = Callable[[Route, str, dict[str, Any]], AsyncGenerator[Part]]
"""Sends a request's body to the engine of a canonical name. Raises OverflowError where that engine's queue is full."""


def make_app(
    serve: ServeConfig, keys: KeyRing, names: Callable[[], Names], answer: Answer, *, capacity: int, root: str = ""
) -> ASGIApp:
    """The application.

    Args:
        serve: Limits, and who may call.
        keys: Keys that open it.
        names: Tells the names as they stand.
        answer: Asks an engine.
        capacity: Requests that are answered or wait at a time; further ones are told to come again.
        root: Path below which it lies, without a slash at the end.
    """
    admission = Admission(capacity)

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def openapi(request: Request) -> Response:
        return JSONResponse(describe(root))

    async def models(request: Request) -> Response:
        return JSONResponse(names().cards(request.state.key))

    async def model(request: Request) -> Response:
        return JSONResponse(names().card(request.path_params["model"], request.state.key))

    async def generate(route: Route, request: Request) -> Response:
        wait_s = admission.wait_s(request.state.key)
        if wait_s is not None:
            return _failed(too_often(wait_s))
        body = await _json_object(request, serve.limits.max_body_bytes)
        canonical = names().resolve(body.get("model"), request.state.key)
        # The engine knows a model by its canonical name alone.
        fields = checked(route, {**body, "model": canonical}, serve.limits, serve.max_num_seqs)
        if not admission.enter():
            return _failed(OVERLOADED)
        return await _respond(_until_left(answer(route, canonical, fields), admission), serve.request_timeout_s)

    origins = list(serve.allowed_origins)
    return Starlette(
        routes=[
            HttpRoute(HEALTH, health),
            HttpRoute("/openapi.json", openapi),
            HttpRoute("/v1/models", models),
            HttpRoute("/v1/models/{model:path}", model),
            HttpRoute("/v1/chat/completions", partial(generate, "chat"), methods=["POST"]),
            HttpRoute("/v1/completions", partial(generate, "completions"), methods=["POST"]),
        ],
        middleware=[
            # Outermost: a browser asks without the key whether it may send one.
            Middleware(CORSMiddleware, allow_origins=origins, allow_methods=["GET", "POST"], allow_headers=["*"]),
            Middleware(
                Guard, keys=keys, hosts={*own_hosts(serve.host), *serve.allowed_hosts}, origins=origins, root=root
            ),
        ][0 if origins else 1 :],
        exception_handlers={
            Refused: _on_refused,
            ValidationError: _on_invalid,
            HTTPException: _on_http_error,
            Exception: _on_fault,
        },
    )


async def _json_object(request: Request, most_bytes: int) -> dict[str, Any]:
    """The body of a request.

    Raises:
        Refused: It is too long, or no JSON object; NaN and infinity, which Python reads, are not JSON.
    """
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > most_bytes:
            message = f"the body is longer than the {most_bytes} bytes that this endpoint takes"
            raise Refused(Failure(413, message, code="body_too_large"))
    try:
        body = json.loads(bytes(data), parse_constant=_not_json)
    except (ValueError, RecursionError) as error:
        raise Refused(Failure(400, "the body is not valid JSON")) from error
    if not isinstance(body, dict):
        raise Refused(Failure(400, "the body must be a JSON object"))
    return body


def _not_json(name: str) -> None:
    raise ValueError(name)


async def _until_left(parts: AsyncGenerator[Part], admission: Admission) -> AsyncGenerator[Part]:
    """The parts; when they end, or nobody wants them any more, the request's place is free again."""
    try:
        async with aclosing(parts):
            async for part in parts:
                yield part
    except OverflowError:
        yield OVERLOADED
    except Exception:
        logger.exception("a request failed")
        yield INTERNAL
    finally:
        admission.leave()


async def _respond(parts: AsyncGenerator[Part], timeout_s: float) -> Response:
    """The response that an engine's first part begins."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    first = await _next(parts, deadline) or INTERNAL
    if isinstance(first, str):
        return StreamingResponse(_events(first, parts, deadline), media_type="text/event-stream")
    await parts.aclose()
    return _failed(first) if isinstance(first, Failure) else JSONResponse(first)


async def _events(first: str, parts: AsyncGenerator[Part], deadline: float) -> AsyncIterator[str]:
    """Server-sent events. A fault on the way is told in one, as the status has gone out already, and ends the stream
    without the ``[DONE]`` that says that an answer is whole.
    """
    async with aclosing(parts):
        yield first
        while (part := await _next(parts, deadline)) is not None:
            if isinstance(part, Failure):
                yield f"data: {json.dumps(part.body())}\n\n"
                return
            yield str(part)


async def _next(parts: AsyncGenerator[Part], deadline: float) -> Part | None:
    try:
        async with asyncio.timeout_at(deadline):
            return await anext(parts, None)
    except TimeoutError:
        return TIMED_OUT


async def _on_refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return _failed(error.failure)


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, ValidationError)
    return _failed(invalid(error.errors(include_url=False, include_input=False, include_context=False)))


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _failed(Failure(error.status_code, f"{request.method} {request.url.path}: {error.detail}"), error.headers)


async def _on_fault(request: Request, error: Exception) -> Response:
    return _failed(INTERNAL)


def _failed(failure: Failure, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse(failure.body(), failure.status, {**failure.headers(), **(headers or {})})
