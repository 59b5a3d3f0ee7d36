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
from luthier.registry import Registry
from luthier.serving.admission import Admission
from luthier.serving.canary import CanaryWatch
from luthier.serving.capture import Capture
from luthier.serving.deployments import deployments
from luthier.serving.front import Front
from luthier.serving.keys import ApiKey, KeyRing
from luthier.serving.metrics import Captures, Metrics
from luthier.serving.names import Names
from luthier.serving.recent import Recent
from luthier.serving.record import Record, request_log
from luthier.serving.redacting import redact_by
from luthier.serving.replies import Part
from luthier.serving.spec import Route
from luthier.serving.standing import Standing
from luthier.serving.web import make_app

logger = logging.getLogger("ray.serve")


class Ingress:
    """Takes requests to engines, by names that it looks up in the registry again and again.

    Args:
        engines: Handles of the engine deployments, by model id.
        front: Everything else.
        master: The key that opens every model.
    """

    def __init__(self, engines: Mapping[str, Any], front: Front, master: ApiKey) -> None:
        self._told = front, master
        self._engines = {model_id: streamed(handle) for model_id, handle in engines.items()}
        self._front = front
        path = front.serve.keys_file
        self._keys = KeyRing(master, Path(path) if path else None)
        self._watch = front.watch()
        self._names = self._watch.look()
        self._canaries = CanaryWatch(front.serve.canary)
        self._admission = Admission(front.capacity)
        self._metrics = Metrics()
        self._recent = Recent()
        self._log = request_log(front.serve.request_log)
        self._capture = Capture(front.serve.capture, Captures().count) if front.serve.capture.path else None
        self._redact = redact_by(front.serve.redact_requests) if front.serve.redact_requests else None
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
            standing=self._standing().tell,
            redact=self._redact,
            **({"listen": self._capture.listen} if self._capture else {}),
            request_id=lambda: serve.context._get_serve_request_context().request_id,
            root=front.root,
            registry=Registry(front.registry_uri, front.default_alias),
        )

    def told(self) -> tuple[Front, ApiKey]:
        """What it was started with, for whoever changes the endpoint."""
        return self._told

    def _standing(self) -> Standing:
        app_name = serve.get_replica_context().app_name
        return Standing(
            lambda: self._names,
            self._recent,
            self._admission,
            lambda: deployments(app_name, self._engines),
            self._front.decoding,
        )

    def _observe(self, record: Record) -> None:
        self._canaries.saw(record)
        self._recent.saw(record)
        self._metrics.count(record)
        self._metrics.inside(self._admission.inside)
        self._log(record)
        if self._capture:
            self._capture.saw(record)

    def __del__(self) -> None:
        """Called by Ray Serve before it ends the replica."""
        if capture := getattr(self, "_capture", None):
            capture.close()

    async def _refresh(self) -> None:
        """Follow the registry and the file of keys; where one can't be read, what was known of it holds."""
        told = ""
        while True:
            await asyncio.sleep(self._front.serve.refresh_s)
            try:
                self._take_up(await asyncio.to_thread(self._watch.look))
                await asyncio.to_thread(self._keys.refresh)
                await self._end_canaries()
                told = ""
            except (LuthierError, OSError) as error:
                if str(error) != told:
                    told = str(error)
                    logger.error("names and keys stay as they are: %s", told)

    def _take_up(self, names: Names) -> None:
        """The names as they stand now. A canary is judged by what it did since it became one."""
        begun = set(names.splits.values()) - set(self._names.splits.values())
        self._canaries.forget(model for split in begun for model in (split.canary, split.stable))
        self._names = names

    async def _end_canaries(self) -> None:
        """End the canaries that have failed; a name is part of a split once by its alias, and once bare."""
        for asked, split in self._names.splits.items():
            name, _, alias = asked.partition("@")
            breach = self._canaries.breach(split) if alias else None
            if breach is not None:
                logger.error("the canary %s of %s is ended: %s", split.canary, asked, breach.reason)
                await asyncio.to_thread(self._watch.end_canary, name, alias, breach)

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


def streamed(handle: Any) -> Any:
    """A handle that asks for streams on the replica's own event loop, by gRPC: Ray's default takes three times as long to
    carry a piece, through its object store and a thread of its own.
    """
    handle._init(_run_router_in_separate_loop=False)
    return handle.options(
        stream=True, _by_reference=False, request_serialization="pickle", response_serialization="pickle"
    )
