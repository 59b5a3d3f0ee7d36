"""What stands before every route: the address that was called, the page that calls, and the key."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from luthier.serving.keys import KeyRing, bearer
from luthier.serving.replies import Failure

HEALTH = "/health"
"""The one route without a key, for load balancers; it tells whether the endpoint answers and nothing else."""

_UNAUTHORISED = Failure(401, "Invalid or missing API key.", code="invalid_api_key")


class Guard:
    """ASGI middleware: refuses foreign hosts and origins with 403, and requests without a key with 401. It leaves the key
    in the request's state.

    Without the check of ``Host``, a web page could point its own name at this machine and call the endpoint from the
    browser of someone within the network (DNS rebinding).

    Args:
        app: What it protects: every route, known or not.
        keys: Keys that open it.
        hosts: Names and addresses by which it may be called; ``*`` is any.
        origins: Web pages of other origins whose scripts may call it.
        root: Path below which the endpoint lies, without a slash at the end.
    """

    def __init__(
        self, app: ASGIApp, keys: KeyRing, hosts: Iterable[str], origins: Iterable[str], root: str = ""
    ) -> None:
        self._app = app
        self._keys = keys
        self._hosts = {host.lower() for host in hosts}
        self._origins = {origin.rstrip("/").lower() for origin in origins}
        self._root = root

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] != "http" or scope["path"].removeprefix(self._root) == HEALTH:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        failure = self._foreign(headers)
        if failure is None:
            key = self._keys.find(bearer(headers.get("authorization", "").encode("latin-1")))
            if key is not None:
                scope.setdefault("state", {})["key"] = key
                await self._app(scope, receive, send)
                return
            failure = _UNAUTHORISED
        response = JSONResponse(failure.body(), failure.status, _challenge(headers) if failure.status == 401 else None)
        if scope["method"] == "HEAD":
            response.body = b""
        await response(scope, receive, send)

    def _foreign(self, headers: Headers) -> Failure | None:
        host = headers.get("host", "")
        if "*" not in self._hosts and hostname(host) not in self._hosts:
            return Failure(
                403,
                "The Host that was called is not this endpoint's; see serve.allowed_hosts.",
                "permission_error",
                code="host_not_allowed",
            )
        origin = headers.get("origin")
        if origin is None or urlsplit(origin).netloc.lower() == host.lower() or origin.lower() in self._origins:
            return None
        return Failure(
            403,
            "Web pages of this origin may not call the endpoint; see serve.allowed_origins.",
            "permission_error",
            code="origin_not_allowed",
        )


def hostname(host: str) -> str:
    """The name or address in a ``Host`` header, without the port."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def own_hosts(host: str) -> set[str]:
    """By which names an endpoint that listens on ``host`` may always be called."""
    local = {"localhost", "127.0.0.1", "::1", socket.gethostname(), socket.getfqdn()}
    return local if host in ("0.0.0.0", "::") else {*local, host}


def _challenge(headers: Headers) -> dict[str, str]:
    """Browsers ask for a password where a page is opened; programs are told to send the key."""
    wants_page = "text/html" in headers.get("accept", "")
    return {"www-authenticate": 'Basic realm="luthier: any user, the API key as password"' if wants_page else "Bearer"}
