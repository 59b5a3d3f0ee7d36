"""The HTTP face: routes of the OpenAI API, each behind the API key.

It knows neither vLLM nor torch, so that it starts at once; requests are checked by the engine that answers them.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Any

from ray.serve.exceptions import BackPressureError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route as HttpRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from luthier.serving.names import Names, Refused
from luthier.serving.replies import INTERNAL, OVERLOADED, Failure, Part
from luthier.serving.spec import Route

logger = logging.getLogger("ray.serve")

Answer = Callable[[Route, str, dict[str, Any]], AsyncIterator[Part]]
"""Sends a request's body to the engine of a canonical name."""


class Ingress:
    """The deployment that listens.

    Args:
        engines: Handles of the engine deployments, by model id.
        names: Who answers to what.
        digest: SHA-256 of the API key, in hex.
    """

    def __init__(self, engines: Mapping[str, Any], names: Names, digest: str) -> None:
        self._engines = {model_id: handle.options(stream=True) for model_id, handle in engines.items()}
        self._names = names
        self._digest = digest
        self._handles: dict[str, Any] = {}

    async def __serve_build_asgi_app__(self) -> ASGIApp:
        """Called by Ray Serve, once."""
        return make_app(self._digest, self._names, self._answer)

    def _answer(self, route: Route, model: str, body: dict[str, Any]) -> AsyncIterator[Part]:
        parts: AsyncIterator[Part] = self._handle(model).answer.remote(route, body)
        return parts

    def _handle(self, model: str) -> Any:
        """A handle for one model; an adapter's requests go to replicas that hold it already."""
        if model not in self._handles:
            engine = self._names.engine_of[model]
            handle = self._engines[engine]
            self._handles[model] = handle if engine == model else handle.options(multiplexed_model_id=model)
        return self._handles[model]


def key_digest(key: str) -> str:
    """What a replica keeps of an API key: its SHA-256, in hex."""
    return hashlib.sha256(key.encode()).hexdigest()


def make_app(digest: str, names: Names, answer: Answer) -> Starlette:
    """The web application: no route without the key, and every error in OpenAI's form."""

    async def models(request: Request) -> Response:
        return JSONResponse(names.cards())

    async def model(request: Request) -> Response:
        return JSONResponse(names.card(request.path_params["model"]))

    async def generate(route: Route, request: Request) -> Response:
        body = await _json_object(request)
        canonical = names.resolve(body.get("model"))
        # The engine knows a model by its canonical name alone.
        return await _respond(answer(route, canonical, {**body, "model": canonical}))

    return Starlette(
        routes=[
            HttpRoute("/v1/models", models),
            HttpRoute("/v1/models/{model:path}", model),
            HttpRoute("/v1/chat/completions", partial(generate, "chat"), methods=["POST"]),
            HttpRoute("/v1/completions", partial(generate, "completions"), methods=["POST"]),
        ],
        middleware=[Middleware(RequireKey, digest=digest)],
        exception_handlers={Refused: _on_refused, HTTPException: _on_http_error},
    )


class RequireKey:
    """ASGI middleware: 401 without the right ``Authorization: Bearer KEY``, compared in constant time.

    Args:
        app: What it protects: every route, known or not.
        digest: SHA-256 of the key, in hex.
    """

    def __init__(self, app: ASGIApp, digest: str) -> None:
        self._app = app
        self._digest = digest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer 401."""
        if scope["type"] != "http" or self._knows(scope):
            await self._app(scope, receive, send)
            return
        failure = Failure(401, "Invalid or missing API key.", code="invalid_api_key")
        response = JSONResponse(failure.body(), 401, {"www-authenticate": "Bearer"})
        if scope["method"] == "HEAD":
            response.body = b""
        await response(scope, receive, send)

    def _knows(self, scope: Scope) -> bool:
        given = b""
        for name, value in scope["headers"]:
            if name == b"authorization":
                scheme, _, given = value.partition(b" ")
                given = given.strip() if scheme.lower() == b"bearer" else b""
        return hmac.compare_digest(hashlib.sha256(given).hexdigest(), self._digest)


async def _json_object(request: Request) -> dict[str, Any]:
    """The body of a request.

    Raises:
        Refused: It is not a JSON object; NaN and infinity, which Python reads, are not JSON.
    """
    try:
        body = json.loads(await request.body(), parse_constant=_not_json)
    except (ValueError, RecursionError) as error:
        raise Refused(Failure(400, "the body is not valid JSON")) from error
    if not isinstance(body, dict):
        raise Refused(Failure(400, "the body must be a JSON object"))
    return body


def _not_json(name: str) -> None:
    raise ValueError(name)


async def _respond(parts: AsyncIterator[Part]) -> Response:
    """The response that an engine's first part begins."""
    first = await _next(parts) or INTERNAL
    if isinstance(first, Failure):
        return _failed(first)
    if isinstance(first, dict):
        return JSONResponse(first)
    return StreamingResponse(_events(first, parts), media_type="text/event-stream")


async def _events(first: str, parts: AsyncIterator[Part]) -> AsyncIterator[str]:
    """Server-sent events; what fails on the way is told in one, as the status has gone out already."""
    yield first
    while (part := await _next(parts)) is not None:
        if isinstance(part, Failure):
            yield f"data: {json.dumps(part.body())}\n\ndata: [DONE]\n\n"
            return
        yield str(part)


async def _next(parts: AsyncIterator[Part]) -> Part | None:
    try:
        return await anext(parts, None)
    except BackPressureError:
        return OVERLOADED
    except Exception:
        logger.exception("a request failed")
        return INTERNAL


async def _on_refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return _failed(error.failure)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _failed(Failure(error.status_code, f"{request.method} {request.url.path}: {error.detail}"), error.headers)


def _failed(failure: Failure, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse(failure.body(), failure.status, {**failure.headers(), **(headers or {})})
