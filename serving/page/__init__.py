"""The page at the endpoint's root: files without a build step, served as they are, that load nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

# No script but the page's own files, and nothing from or to another host; answers of models are inserted as text.
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}


def page_routes() -> list[Route]:
    """Routes of the page and of its files, which are read once."""
    directory = Path(__file__).parent
    page = (directory / "index.html").read_bytes()
    files = {path.name: path.read_bytes() for path in directory.iterdir() if path.suffix in _MEDIA_TYPES}

    async def index(request: Request) -> Response:
        return Response(page, media_type="text/html", headers=_HEADERS)

    async def file(request: Request) -> Response:
        name = request.path_params["file"]
        if name not in files:
            raise HTTPException(404)
        return Response(files[name], media_type=_MEDIA_TYPES[Path(name).suffix], headers=_HEADERS)

    return [Route("/", index), Route("/page/{file}", file)]
