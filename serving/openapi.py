"""The OpenAPI description of the endpoint, made from the request models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic.json_schema import models_json_schema

from luthier import __version__
from luthier.serving.guard import HEALTH
from luthier.serving.requests import REQUESTS
from luthier.serving.spec import PATHS, ROUTES

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_JSON = {"application/json": {"schema": {"type": "object"}}}
_HTML = {"text/html": {"schema": {"type": "string"}}}
_FILE = {kind: {"schema": {"type": "string"}} for kind in ("text/css", "text/javascript", "image/svg+xml")}
_SUMMARIES = {
    "create_chat": "Answer a conversation.",
    "create_completions": "Go on with a text.",
    "create_embeddings": "Vectors of texts, of a model that embeds.",
    "create_classify": "Labels of texts with their scores, of a classifier.",
    "list_models": "What the key may ask.",
    "get_model": "One model, by any of its names.",
    "list_versions": "Registered versions with their aliases and figures.",
    "get_version": "One registered version.",
    "get_report": "The report that a version was registered with.",
    "page": "The page for people.",
    "page_file": "A file of the page.",
    "get_status": "Versions, load and deployments as they stand.",
    "health": "Whether the endpoint answers; the one route without a key.",
}
_REFUSALS = {
    "400": "A field is wrong, unknown or beyond a limit; param names it.",
    "401": "No key, or one that opens nothing.",
    "403": "The key does not open the model, or Host or Origin is foreign.",
    "404": "Nothing is served under the name, or there is no such version or report.",
    "408": "The answer took longer than serve.request_timeout_s.",
    "413": "The body is too long.",
    "422": "The model is registered and can't be served, or its report is damaged.",
    "429": "The queue is full, or the key's rate is used up; Retry-After says when to come again.",
    "500": "A fault of the server's own.",
}


def describe(root: str = "") -> dict[str, Any]:
    """The description, as OpenAPI 3.1 has it.

    Args:
        root: Path below which the endpoint lies.
    """
    _, schemas = models_json_schema(
        [(REQUESTS[route], "validation") for route in PATHS], ref_template="#/components/schemas/{model}"
    )
    asked = {
        path: {
            "post": _operation(f"create_{route}", _told(REQUESTS[route].__name__), streams=route in ROUTES["generate"])
        }
        for route, path in PATHS.items()
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "luthier", "version": __version__, "description": "Fine-tuned models behind the OpenAI API."},
        "servers": [{"url": root or "/"}],
        "security": [{"key": []}],
        "paths": {
            **asked,
            "/v1/models": {"get": _operation("list_models")},
            "/v1/models/{model}": {"get": {**_operation("get_model"), "parameters": [_in_path("model")]}},
            "/v1/versions": {"get": _operation("list_versions")},
            "/v1/versions/{version}": {"get": {**_operation("get_version"), "parameters": [_in_path("version")]}},
            "/v1/versions/{version}/report": {
                "get": {**_operation("get_report", answer=_HTML), "parameters": [_in_path("version")]}
            },
            "/": {"get": _operation("page", answer=_HTML)},
            "/page/{file}": {"get": {**_operation("page_file", answer=_FILE), "parameters": [_in_path("file")]}},
            "/v1/status": {"get": _operation("get_status")},
            HEALTH: {"get": {**_operation("health"), "security": []}},
        },
        "components": {
            "schemas": {**schemas.get("$defs", {}), "Error": _ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _in_path(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _operation(
    name: str, body: dict[str, Any] | None = None, *, streams: bool = False, answer: Mapping[str, Any] = _JSON
) -> dict[str, Any]:
    if streams:
        answer = {**answer, "text/event-stream": {"schema": {"type": "string"}}}
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    refusals = {status: {"description": why, "content": error} for status, why in _REFUSALS.items()}
    operation: dict[str, Any] = {
        "operationId": name,
        "summary": _SUMMARIES[name],
        "responses": {"200": {"description": "The answer.", "content": answer}, **refusals},
    }
    return operation if body is None else {**operation, "requestBody": body}


def _told(schema: str) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}}
