"""The HTTP face: routes of the OpenAI API, each behind the API key."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from ray.llm._internal.serve.core.configs.openai_api_models import ModelList, OpenAIHTTPException, to_model_metadata
from ray.llm._internal.serve.core.ingress.middleware import SetRequestIdMiddleware, add_exception_handling_middleware
from ray.serve.handle import DeploymentHandle
from ray.serve.llm import LLMConfig
from ray.serve.llm.ingress import OpenAiIngress
from starlette.types import ASGIApp, Receive, Scope, Send

ENDPOINTS: dict[str, Callable[[FastAPI], Any]] = {
    "models": lambda app: app.get("/v1/models", response_model=ModelList),
    "model_data": lambda app: app.get("/v1/models/{model:path}"),
    "completions": lambda app: app.post("/v1/completions"),
    "chat": lambda app: app.post("/v1/chat/completions"),
}
"""Method of the ingress to its route."""


def key_digest(key: str) -> str:
    """What a replica keeps of an API key: its SHA-256, in hex."""
    return hashlib.sha256(key.encode()).hexdigest()


def make_app(digest: str) -> FastAPI:
    """The web application: no documentation pages, and no route without the key."""
    app = FastAPI(title="luthier", docs_url=None, redoc_url=None, openapi_url=None)
    add_exception_handling_middleware(app)
    app.add_middleware(SetRequestIdMiddleware)
    app.add_middleware(RequireKey, digest=digest)
    return app


def model_card(config: LLMConfig) -> Any:
    """What ``/v1/models`` says of an engine's model; the place of its files stays private."""
    card = to_model_metadata(config.model_id, config)
    return card.model_copy(update={"metadata": {}, "owned_by": "luthier"})


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
        error = {"message": "Invalid or missing API key.", "type": "invalid_request_error", "code": "invalid_api_key"}
        body = json.dumps({"error": {**error, "param": None}}).encode()
        headers = [(b"content-type", b"application/json"), (b"www-authenticate", b"Bearer")]
        await send({"type": "http.response.start", "status": 401, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _knows(self, scope: Scope) -> bool:
        given = b""
        for name, value in scope["headers"]:
            if name == b"authorization":
                scheme, _, given = value.partition(b" ")
                given = given.strip() if scheme.lower() == b"bearer" else b""
        return hmac.compare_digest(hashlib.sha256(given).hexdigest(), self._digest)


class RegistryIngress(OpenAiIngress):
    """Ray's OpenAI ingress, with names that come from the registry.

    Args:
        llm_deployments: Engine deployments by the id of the model that each serves.
        model_cards: Their cards.
        names: Every name that a request may use, to the canonical one.
        engine_of: Canonical name to the engine that serves it.
    """

    def __init__(
        self,
        llm_deployments: dict[str, DeploymentHandle],
        model_cards: dict[str, Any],
        *,
        names: dict[str, str],
        engine_of: dict[str, str],
    ) -> None:
        super().__init__(llm_deployments=llm_deployments, model_cards=model_cards)
        self._names = names
        self._engine_of = engine_of

    async def _get_model_id(self, model: str | None) -> str:
        if model is None or model not in self._names:
            asked = "no model" if model is None else repr(model)
            known = ", ".join(sorted(self._names))
            raise OpenAIHTTPException(404, f"{asked} is served here; models are {known}.", type="model_not_found")
        return self._names[model]

    def _get_configured_serve_handle(self, model_id: str) -> Any:
        engine = self._engine_of[model_id]
        if engine == model_id:
            return super()._get_configured_serve_handle(model_id)
        if model_id not in self._configured_serve_handles:
            handle = self._default_serve_handles[engine].options(stream=True, multiplexed_model_id=model_id)
            self._configured_serve_handles[model_id] = handle
        return self._configured_serve_handles[model_id]

    async def _get_response(self, *, body: Any, call_method: str, raw_request: Any = None) -> Any:
        # The engine knows a model by its canonical name alone.
        body.model = await self._get_model_id(body.model)
        async for part in super()._get_response(body=body, call_method=call_method, raw_request=raw_request):
            yield part

    async def model(self, model_id: str) -> Any:
        """The card of one model, by any of its names."""
        if model_id not in self._names:
            return None
        card = self._model_cards[self._engine_of[self._names[model_id]]]
        return card.model_copy(update={"id": model_id})

    async def models(self) -> ModelList:
        """Every name that can be asked for."""
        return ModelList(data=[await self.model(name) for name in sorted(self._names)])
