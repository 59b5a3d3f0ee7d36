"""The OpenAPI description of the endpoint, made from the request models."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from luthier import __version__
from luthier.serving.guard import HEALTH
from luthier.serving.requests import REQUESTS

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
_REFUSALS = {
    "400": "A field is wrong, unknown or beyond a limit; param names it.",
    "401": "No key, or one that opens nothing.",
    "403": "The key does not open the model, or Host or Origin is foreign.",
    "404": "Nothing is served under the name.",
    "408": "The answer took longer than serve.request_timeout_s.",
    "413": "The body is too long.",
    "422": "The model is registered and can't be served.",
    "429": "The queue is full, or the key's rate is used up; Retry-After says when to come again.",
    "500": "A fault of the server's own.",
}


def describe(root: str = "") -> dict[str, Any]:
    """The description, as OpenAPI 3.1 has it.

    Args:
        root: Path below which the endpoint lies.
    """
    kinds = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}
    _, schemas = models_json_schema(
        [(REQUESTS[kind], "validation") for kind in kinds], ref_template="#/components/schemas/{model}"
    )
    generation = {
        path: {"post": _operation(f"create_{kind}", _told(REQUESTS[kind].__name__), streams=True)}
        for kind, path in kinds.items()
    }
    name = {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "luthier", "version": __version__, "description": "Fine-tuned models behind the OpenAI API."},
        "servers": [{"url": root or "/"}],
        "security": [{"key": []}],
        "paths": {
            **generation,
            "/v1/models": {"get": _operation("list_models")},
            "/v1/models/{model}": {"get": {**_operation("get_model"), "parameters": [name]}},
            "/v1/status": {"get": _operation("get_status")},
            HEALTH: {"get": {**_operation("health"), "security": []}},
        },
        "components": {
            "schemas": {**schemas.get("$defs", {}), "Error": _ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(name: str, body: dict[str, Any] | None = None, *, streams: bool = False) -> dict[str, Any]:
    answer: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
    if streams:
        answer["text/event-stream"] = {"schema": {"type": "string"}}
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    refusals = {status: {"description": why, "content": error} for status, why in _REFUSALS.items()}
    operation: dict[str, Any] = {
        "operationId": name,
        "responses": {"200": {"description": "The answer.", "content": answer}, **refusals},
    }
    return operation if body is None else {**operation, "requestBody": body}


def _told(schema: str) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}}
