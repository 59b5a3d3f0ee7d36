"""The deployment that listens: the web application before the engines."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve.exceptions import BackPressureError
from starlette.types import ASGIApp

from luthier.errors import LuthierError
from luthier.serving.admission import Admission
from luthier.serving.front import Front
from luthier.serving.keys import ApiKey, KeyRing
from luthier.serving.metrics import Metrics
from luthier.serving.record import Record, request_log
from luthier.serving.replies import Part
from luthier.serving.spec import Route
from luthier.serving.web import make_app

logger = logging.getLogger("ray.serve")


class Ingress:
    """Takes requests to engines, by names that it looks up in the registry again and again.

    Args:
        engines: Handles of the engine deployments, by model id.
        front: Everything else.
        digest: SHA-256 of the key that opens every model, in hex.
    """

    def __init__(self, engines: Mapping[str, Any], front: Front, digest: str) -> None:
        self._engines = {model_id: handle.options(stream=True) for model_id, handle in engines.items()}
        self._front = front
        path = front.serve.keys_file
        self._keys = KeyRing(ApiKey(name="master", sha256=digest), Path(path) if path else None)
        self._watch = front.watch()
        self._names = self._watch.look()
        self._admission = Admission(front.capacity)
        self._metrics = Metrics()
        self._log = request_log(front.serve.request_log)
        self._handles: dict[str, Any] = {}
        self._refreshing: asyncio.Task[None] | None = None

    async def __serve_build_asgi_app__(self) -> ASGIApp:
        """Called by Ray Serve, once."""
        self._refreshing = asyncio.create_task(self._refresh())
        front = self._front
        return make_app(
            front.serve,
            self._keys,
            lambda: self._names,
            self._answer,
            self._admission,
            observe=self._observe,
            request_id=lambda: serve.context._get_serve_request_context().request_id,
            root=front.root,
        )

    def _observe(self, record: Record) -> None:
        self._metrics.count(record)
        self._metrics.inside(self._admission.inside)
        self._log(record)

    async def _refresh(self) -> None:
        """Follow the registry and the file of keys; where one can't be read, what was known of it holds."""
        told = ""
        while True:
            await asyncio.sleep(self._front.serve.refresh_s)
            try:
                self._names = await asyncio.to_thread(self._watch.look)
                await asyncio.to_thread(self._keys.refresh)
                told = ""
            except (LuthierError, OSError) as error:
                if str(error) != told:
                    told = str(error)
                    logger.error("names and keys stay as they are: %s", told)

    async def _answer(self, route: Route, model: str, body: dict[str, Any]) -> AsyncGenerator[Part]:
        parts = self._handle(model).answer.remote(route, body)
        try:
            async for part in parts:
                yield part
        except BackPressureError as error:
            raise OverflowError from error
        finally:
            parts.cancel()  # nothing to do where it has ended

    def _handle(self, model: str) -> Any:
        """A handle for one model; an adapter's requests go to replicas that hold it already."""
        if model not in self._handles:
            engine = self._names.engine_of[model]
            handle = self._engines[engine]
            self._handles[model] = handle if engine == model else handle.options(multiplexed_model_id=model)
        return self._handles[model]
