"""What stands before the queue's routes: no body is read of a request that has no token, or that tells no fair size."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from luthier.cluster.queue.tokens import Tokens

OPEN = ("/health",)
PACKAGES = "/v1/packages/"
"""Bodies of these are counted while they are written down."""

LIMIT_BYTES = 2**20
"""Of any other body."""


class Guard:
    """ASGI middleware.

    Args:
        app: What stands behind it.
        tokens: Who may ask.
    """

    def __init__(self, app: ASGIApp, tokens: Tokens) -> None:
        self._app = app
        self._tokens = tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on, or answer it."""
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        await (self._app if refusal is None else refusal)(scope, receive, send)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        headers, path = Headers(scope=scope), scope["path"]
        if path not in OPEN and not self._tokens.admits(headers.get("authorization", "")):
            told = "a token is needed: Authorization: Bearer TOKEN"
            return JSONResponse({"detail": told}, 401, {"WWW-Authenticate": "Bearer"})
        if scope["method"] in ("POST", "PATCH") or (scope["method"] == "PUT" and not path.startswith(PACKAGES)):
            length = headers.get("content-length", "")
            if not length.isdigit():
                return JSONResponse({"detail": "the request must tell its Content-Length"}, 411)
            if int(length) > LIMIT_BYTES:
                return JSONResponse({"detail": f"the request is larger than {LIMIT_BYTES} bytes"}, 413)
        return None
