"""The web application: routes of the OpenAI API, each behind an API key, and every error in OpenAI's form.

It knows neither Ray nor vLLM nor torch: what answers is a function, and so is what tells the names.
"""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route as HttpRoute
from starlette.types import ASGIApp

from luthier.config.serve import ServeConfig
from luthier.registry import Registry
from luthier.serving.admission import Admission
from luthier.serving.guard import HEALTH, Guard, own_hosts
from luthier.serving.keys import ApiKey, KeyRing
from luthier.serving.names import Names, Refused
from luthier.serving.openapi import describe
from luthier.serving.page import page_routes
from luthier.serving.record import Observe, Record, is_usage
from luthier.serving.redacting import Redact
from luthier.serving.replies import INTERNAL, OVERLOADED, TIMED_OUT, Failure, Part, invalid, too_often
from luthier.serving.requests import checked
from luthier.serving.spec import PATHS, Route
from luthier.serving.versions import version_routes

logger = logging.getLogger("ray.serve")

Answer = Callable[[Route, str, dict[str, Any]], AsyncGenerator[Part]]
"""Sends a request's body to the engine of a canonical name. Raises OverflowError where that engine's queue is full."""

Listen = Callable[[Record, Mapping[str, Any], AsyncGenerator[Part]], AsyncGenerator[Part]]
"""Hears a request's fields and the parts of its answer, and passes the parts on."""

Tell = Callable[[ApiKey], Awaitable[dict[str, Any]]]
"""What a key may know of where the endpoint stands."""


async def _nothing(key: ApiKey) -> dict[str, Any]:
    return {}


def make_app(
    serve: ServeConfig,
    keys: KeyRing,
    names: Callable[[], Names],
    answer: Answer,
    admission: Admission,
    *,
    observe: Observe = lambda record: None,
    listen: Listen = lambda record, fields, parts: parts,
    redact: Redact | None = None,
    standing: Tell = _nothing,
    request_id: Callable[[], str] = lambda: uuid.uuid4().hex,
    root: str = "",
    registry: Registry | None = None,
) -> ASGIApp:
    """The application.

    Args:
        serve: Limits, and who may call.
        keys: Keys that open it.
        names: Tells the names as they stand.
        answer: Asks an engine.
        admission: Counts the requests that are answered or wait.
        observe: Told of each request when it has ended.
        listen: Hears what is said.
        redact: Changes each request before an engine, or whoever listens, sees it; None: nobody does.
        standing: Tells where the endpoint stands.
        request_id: Tells the present request's id.
        root: Path below which it lies, without a slash at the end.
        registry: Whose versions it tells of; None: of none.
    """

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def openapi(request: Request) -> Response:
        return JSONResponse(describe(root))

    async def models(request: Request) -> Response:
        return JSONResponse(names().cards(request.state.key))

    async def model(request: Request) -> Response:
        return JSONResponse(names().card(request.path_params["model"], request.state.key))

    async def status(request: Request) -> Response:
        return JSONResponse(await standing(request.state.key))

    async def answered(route: Route, request: Request) -> Response:
        record = Record(request_id(), route, request.state.key.name)
        try:
            parts = await admitted(route, request, record)
        except (Refused, ValidationError) as error:
            failure = _failure_of(error)
            record.failed(failure)
            observe(record)
            return _failed(failure)
        return await _respond(parts)

    async def admitted(route: Route, request: Request, record: Record) -> AsyncGenerator[Part]:
        """The answer of the engine to a request that passes every check.

        Raises:
            Refused, ValidationError: It does not.
        """
        key: ApiKey = request.state.key
        if (wait_s := admission.wait_s(key)) is not None:
            raise Refused(too_often(wait_s))
        body = await _json_object(request, serve.limits.max_body_bytes)
        record.model = names().resolve(body.get("model"), key, str(body.get("user") or ""))
        record.lineage_id = names().lineage.get(record.model, "")
        names().require(record.model, route)
        # The engine knows a model by its canonical name alone.
        fields = checked(route, {**body, "model": record.model}, serve.limits, serve.max_num_seqs)
        if redact:
            fields = await asyncio.to_thread(redact, fields)  # 1 MB of text takes 0.2 s
        record.stream = bool(fields.get("stream"))
        if not admission.enter():
            raise Refused(OVERLOADED)
        return _followed(
            listen(record, fields, answer(route, record.model, _counted(fields))),
            record,
            serve.request_timeout_s,
            asks_usage=_asks_usage(fields),
            leave=leave,
        )

    def leave(record: Record) -> None:
        admission.leave()
        observe(record)

    origins = list(serve.allowed_origins)
    return Starlette(
        routes=[
            HttpRoute(HEALTH, health),
            HttpRoute("/openapi.json", openapi),
            HttpRoute("/v1/models", models),
            HttpRoute("/v1/models/{model:path}", model),
            HttpRoute("/v1/status", status),
            *(HttpRoute(path, partial(answered, route), methods=["POST"]) for route, path in PATHS.items()),
            *version_routes(registry, names),
            *page_routes(),
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
            HTTPException: _on_http_error,
            Exception: _on_fault,
        },
    )


async def _json_object(request: Request, most_bytes: int) -> dict[str, Any]:
    """The body of a request.

    Raises:
        Refused: It is too long, cut off, or no JSON object; NaN and infinity, which Python reads, are not JSON.
    """
    data = bytearray()
    try:
        async for piece in request.stream():
            data += piece
            if len(data) > most_bytes:
                message = f"the body is longer than the {most_bytes} bytes that this endpoint takes"
                raise Refused(Failure(413, message, code="body_too_large"))
    except ClientDisconnect as error:
        raise Refused(Failure(499, "the client left before its request was whole", code="client_left")) from error
    try:
        body = json.loads(bytes(data), parse_constant=_not_json)
    except (ValueError, RecursionError) as error:
        raise Refused(Failure(400, "the body is not valid JSON")) from error
    if not isinstance(body, dict):
        raise Refused(Failure(400, "the body must be a JSON object"))
    return body


def _not_json(name: str) -> None:
    raise ValueError(name)


def _asks_usage(fields: Mapping[str, Any]) -> bool:
    return bool(fields.get("stream_options", {}).get("include_usage"))


def _counted(fields: dict[str, Any]) -> dict[str, Any]:
    """The request, so that a stream ends with its count of tokens, whether the client asked for that or not."""
    return {**fields, "stream_options": {"include_usage": True}} if fields.get("stream") else fields


async def _followed(
    parts: AsyncGenerator[Part],
    record: Record,
    timeout_s: float,
    *,
    asks_usage: bool,
    leave: Callable[[Record], None],
) -> AsyncGenerator[Part]:
    """The parts, noted in the record; when they end, or nobody wants them any more, the request has left.

    A fault is the last part, whatever the engine says after it.
    """
    deadline = asyncio.get_running_loop().time() + timeout_s
    fault: Failure | None = None
    try:
        async with aclosing(parts):
            while (part := await _before(deadline, parts)) is not None:
                record.saw(part)
                if isinstance(part, Failure):
                    fault = part
                    break
                if asks_usage or not (isinstance(part, str) and is_usage(part)):
                    yield part
        fault = fault or (None if record.status else INTERNAL)  # an engine that says nothing
    except OverflowError:
        fault = OVERLOADED
    except TimeoutError:
        fault = TIMED_OUT
    except (asyncio.CancelledError, GeneratorExit):
        record.left()
        raise
    except Exception:
        logger.exception("a request failed")
        fault = INTERNAL
    finally:
        if fault is not None:
            record.failed(fault)
        record.ended()
        leave(record)
    if fault is not None:
        yield fault


async def _before(deadline: float, parts: AsyncGenerator[Part]) -> Part | None:
    async with asyncio.timeout_at(deadline):
        return await anext(parts, None)


async def _respond(parts: AsyncGenerator[Part]) -> Response:
    """The response that an engine's first part begins."""
    first = await anext(parts)
    if isinstance(first, str):
        return StreamingResponse(_events(first, parts), media_type="text/event-stream")
    async for _ in parts:  # to the end: who stops before it counts as a client that left
        continue
    return _failed(first) if isinstance(first, Failure) else JSONResponse(first)


async def _events(first: str, parts: AsyncGenerator[Part]) -> AsyncIterator[str]:
    """Server-sent events. A fault on the way is told in one, as the status has gone out already, and ends the stream
    without the ``[DONE]`` that says that an answer is whole.
    """
    async with aclosing(parts):
        yield first
        async for part in parts:
            yield f"data: {json.dumps(part.body())}\n\n" if isinstance(part, Failure) else str(part)


def _failure_of(error: Refused | ValidationError) -> Failure:
    if isinstance(error, Refused):
        return error.failure
    return invalid(error.errors(include_url=False, include_input=False, include_context=False))


async def _on_refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return _failed(error.failure)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _failed(Failure(error.status_code, f"{request.method} {request.url.path}: {error.detail}"), error.headers)


async def _on_fault(request: Request, error: Exception) -> Response:
    return _failed(INTERNAL)


def _failed(failure: Failure, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse(failure.body(), failure.status, {**failure.headers(), **(headers or {})})
