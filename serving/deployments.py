"""Asks Ray Serve, and the engines, how the endpoint's deployments do."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from luthier.serving.standing import Deployment

logger = logging.getLogger("ray.serve")

_ANSWER_S = 2.0

# What is not known is not told: a busy cluster, a deployment without a replica, an application that is taken down.
_NOT_TOLD = (TimeoutError, RayError, RayServeException, KeyError)


async def deployments(app_name: str, engines: Mapping[str, Any]) -> list[Deployment]:
    """The application's deployments; none where Ray Serve does not answer soon.

    Args:
        app_name: The application.
        engines: Handles of the engine deployments, by model id.
    """
    try:
        status = await asyncio.wait_for(asyncio.to_thread(serve.status), _ANSWER_S)
        found = status.applications[app_name].deployments
    except _NOT_TOLD as error:
        logger.warning("Ray Serve does not tell the status of deployments: %s", type(error).__name__)
        return []
    engine_of = {handle.deployment_name: model for model, handle in engines.items()}
    held = await asyncio.gather(*(_held(engines[engine_of[name]]) if name in engine_of else _none() for name in found))
    return [
        Deployment(
            name,
            engine_of.get(name, ""),
            _word(one.status),
            {_word(state): number for state, number in one.replica_states.items()},
            adapters,
            one.message,
        )
        for (name, one), adapters in zip(found.items(), held, strict=True)
    ]


async def _held(handle: Any) -> tuple[str, ...]:
    """The adapters that any of an engine's replicas holds."""
    try:
        answers = (
            await handle.options(stream=False)
            .broadcast("held")
            .results_async(timeout_s=_ANSWER_S, return_exceptions=True)
        )
    except _NOT_TOLD:
        return ()
    return tuple(sorted({name for one in answers if isinstance(one, tuple) for name in one}))


async def _none() -> tuple[str, ...]:
    return ()


def _word(state: str) -> str:
    """Ray Serve's word, which is an enumeration's member or plain text, depending on what has been serialised before."""
    return str(getattr(state, "value", state))
