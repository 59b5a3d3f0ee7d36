"""What ``GET /v1/status`` tells: versions, how their requests went, and the engines behind them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from luthier.serving.admission import Admission
from luthier.serving.keys import ApiKey
from luthier.serving.names import Names
from luthier.serving.recent import NONE, Recent

_KNOWN_FOR_S = 1.0


@dataclass(frozen=True)
class Deployment:
    """One deployment of the endpoint.

    Attributes:
        name: Ray Serve's name of it.
        engine: The model that it is the engine of; empty for the ingress.
        status: Ray Serve's word.
        replicas: How many there are in each state.
        adapters: What its replicas hold.
        message: What Ray Serve says of it, where something is amiss.
    """

    name: str
    engine: str
    status: str
    replicas: Mapping[str, int] = field(default_factory=dict)
    adapters: tuple[str, ...] = ()
    message: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        plain = {"deployment": self.name, "engine": self.engine or None, "status": self.status}
        return {**plain, "replicas": dict(self.replicas), "adapters": list(self.adapters), "message": self.message}


class Standing:
    """Puts together where an endpoint stands.

    Args:
        names: Tells the names as they stand.
        recent: The last requests.
        admission: Counts the requests that are answered or wait.
        deployments: Asks the cluster.
        decoding: Requests that all engines together decode at a time.
    """

    def __init__(
        self,
        names: Callable[[], Names],
        recent: Recent,
        admission: Admission,
        deployments: Callable[[], Awaitable[list[Deployment]]],
        decoding: int,
    ) -> None:
        self._names = names
        self._recent = recent
        self._admission = admission
        self._ask = deployments
        self._decoding = decoding
        self._deployments: list[Deployment] = []
        self._asked_s = float("-inf")
        self._asking = asyncio.Lock()

    async def tell(self, key: ApiKey) -> dict[str, Any]:
        """What a key may know: of its own models; the load of the whole endpoint and its deployments only if it opens
        every model.
        """
        deployments = await self._current()
        names = self._names()
        behind = {one.engine: one for one in deployments if one.engine}
        figures = self._recent.figures()
        opened = sorted(model for model in names.engine_of if key.admits(model))
        models = [
            {
                **_card(names, model),
                **_behind(behind.get(names.engine_of[model]), model),
                **figures.get(model, NONE).as_dict(),
            }
            for model in opened
        ]
        told = {
            "object": "status",
            "up_s": max(0, int(time.time()) - names.created_s),
            "window_s": round(self._recent.window_s, 1),
            "models": models,
            "problems": {name: why for name, why in sorted(names.problems.items()) if key.admits(name)},
        }
        if not key.opens_all:
            return told
        load = {
            "in_flight": self._admission.inside,
            "decoding_most": self._decoding,
            "in_flight_most": self._admission.capacity,
        }
        return {**told, "load": load, "deployments": [one.as_dict() for one in deployments]}

    async def _current(self) -> list[Deployment]:
        """The deployments, asked for at most once a second, however many ask."""
        async with self._asking:
            if time.monotonic() - self._asked_s >= _KNOWN_FOR_S:
                self._deployments = await self._ask()
                self._asked_s = time.monotonic()
        return self._deployments


def _card(names: Names, model: str) -> dict[str, Any]:
    canaries = {name: split.weight for name, split in sorted(names.splits.items()) if split.canary == model}
    others = sorted(name for name, canonical in names.canonical.items() if canonical == model != name)
    return {
        "model": model,
        "names": others,
        "canary_of": canaries,
        "lineage_id": names.lineage.get(model, ""),
        "adapter": names.engine_of[model] != model,
    }


def _behind(engine: Deployment | None, model: str) -> dict[str, Any]:
    """How many replicas of its engine there are in each state, and how many hold it."""
    return {
        "replicas": dict(engine.replicas) if engine else {},
        "loaded": engine is not None and (model == engine.engine or model in engine.adapters),
    }
