"""The queue over HTTP."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, Header, HTTPException, Path, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from starlette.concurrency import run_in_threadpool

from luthier.cluster.queue import entry
from luthier.cluster.queue.dispatcher import Dispatcher
from luthier.cluster.queue.entry import Asked, Taken
from luthier.cluster.queue.guard import Guard
from luthier.cluster.queue.packages import Packages
from luthier.cluster.queue.report import TeamUse, team_uses
from luthier.cluster.queue.store import Store
from luthier.cluster.queue.teams import Policy
from luthier.cluster.queue.ticket import Ticket
from luthier.cluster.queue.tokens import Tokens
from luthier.errors import ConfigError, LuthierError, ResourceError
from luthier.safe_files import Sha256

Digest = Annotated[Sha256, Path()]


class Moved(BaseModel):
    """A new priority."""

    model_config = ConfigDict(extra="forbid")

    priority: int | str


def make_app(store: Store, packages: Packages, policy: Policy, dispatcher: Dispatcher, tokens: Tokens) -> FastAPI:
    """The application.

    Args:
        store: The tickets.
        packages: What they run.
        policy: The teams.
        dispatcher: Started and stopped with the application.
        tokens: Who may ask.
    """

    @asynccontextmanager
    async def alive(_: FastAPI) -> AsyncIterator[None]:
        dispatcher.start()
        try:
            yield
        finally:
            await run_in_threadpool(dispatcher.stop)
            store.close()

    app = FastAPI(title="luthier queue", lifespan=alive, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Guard, tokens=tokens)
    app.add_exception_handler(LuthierError, _told)
    app.add_exception_handler(RequestValidationError, _told_of_fields)
    _add_health(app, dispatcher)
    _add_packages(app, packages)
    _add_tickets(app, store, policy, dispatcher, packages, tokens)

    @app.get("/v1/teams")
    def teams() -> list[TeamUse]:
        return team_uses(store.all(), policy, time.time())

    return app


def _add_health(app: FastAPI, dispatcher: Dispatcher) -> None:
    @app.get("/health")
    def health() -> dict[str, Any]:
        """Open to everybody, so it says no more than this."""
        return {"status": "ok", "head": "answers" if dispatcher.trouble is None else "away"}


def _add_packages(app: FastAPI, packages: Packages) -> None:
    @app.head("/v1/packages/{sha256}")
    def has(sha256: Digest) -> Response:
        return Response(status_code=200 if packages.has(sha256) else 404)

    @app.put("/v1/packages/{sha256}", status_code=201)
    async def save(sha256: Digest, request: Request) -> dict[str, Any]:
        return {"sha256": sha256, "size_bytes": await packages.save(sha256, request.stream())}


def _add_tickets(
    app: FastAPI,
    store: Store,
    policy: Policy,
    dispatcher: Dispatcher,
    packages: Packages,
    tokens: Tokens,
) -> None:
    @app.post("/v1/tickets", status_code=201)
    def enqueue(asked: Asked, response: Response, authorization: Annotated[str, Header()] = "") -> Taken:
        _must_open(tokens, authorization, policy.team_name(asked.team))
        if not packages.has(asked.submission.package.sha256):
            raise HTTPException(409, "the package is not here; send it first: PUT /v1/packages/SHA256")
        taken = entry.enqueue(asked, store, policy, dispatcher.cluster)
        dispatcher.poke()
        response.status_code = 200 if taken.joined else 201
        return taken

    @app.get("/v1/tickets")
    def tickets(over: bool = True) -> list[Ticket]:
        return [ticket for ticket in reversed(store.all()) if over or not ticket.is_over]

    @app.get("/v1/tickets/{name}")
    def ticket(name: str) -> Ticket:
        return entry.known(store, name)

    @app.delete("/v1/tickets/{name}")
    def cancel(name: str, authorization: Annotated[str, Header()] = "") -> Ticket:
        found = entry.known(store, name)
        _must_open(tokens, authorization, found.team)
        cancelled = entry.cancel(found, store)
        dispatcher.poke()
        return cancelled

    @app.patch("/v1/tickets/{name}")
    def move(name: str, moved: Moved, authorization: Annotated[str, Header()] = "") -> Ticket:
        found = entry.known(store, name)
        _must_open(tokens, authorization, found.team)
        changed = entry.move(found, moved.priority, store, policy)
        dispatcher.poke()
        return changed


def _must_open(tokens: Tokens, authorization: str, team: str) -> None:
    if not tokens.opens(authorization, team):
        raise HTTPException(403, f"this token does not open team {team}; use that team's own")


def _told(_: Request, error: Exception) -> JSONResponse:
    """An error as the client raises it again: its class is in its status."""
    status = 422 if isinstance(error, ResourceError) else 400 if isinstance(error, ConfigError) else 500
    return JSONResponse({"detail": str(error)}, status)


def _told_of_fields(_: Request, error: Exception) -> JSONResponse:
    """What is wrong with a request, without what it held: that may be a secret of the job's environment."""
    assert isinstance(error, RequestValidationError)
    told = [f"{'.'.join(map(str, one['loc'][1:])) or 'the request'}: {one['msg']}" for one in error.errors()]
    return JSONResponse({"detail": "\n".join(told)}, 400)
