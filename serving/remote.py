"""Asks an endpoint over the network where it stands."""

from __future__ import annotations

from typing import Any

import httpx

from luthier.errors import ConfigError, ResourceError
from luthier.serving.guard import HEALTH

_CONNECT_S = 3.0
_ANSWER_S = 6.0


def endpoint_status(url: str, key: str | None, how: str, *, trusted: bool = True) -> dict[str, Any]:
    """What ``GET /v1/status`` tells, and the ``url`` that was asked.

    Args:
        url: The endpoint, with or without ``/v1``.
        key: An API key.
        how: How a key is given, for the message where one is missing.
        trusted: The key may be sent at once; else it is sent only to what looks like an endpoint.

    Raises:
        ResourceError: Nothing answers there in time, or no endpoint of luthier's.
        ConfigError: The URL is none, or the key is missing or refused.
    """
    base = url.rstrip("/").removesuffix("/v1")
    try:
        with httpx.Client(
            base_url=base, timeout=httpx.Timeout(_ANSWER_S, connect=_CONNECT_S), trust_env=False
        ) as client:
            if not (trusted and key) and not _is_alive(client):
                raise ResourceError(_foreign(base))
            if not key:
                raise ConfigError(f"the endpoint at {base} asks for an API key; give one with {how}.")
            reply = client.get("/v1/status", headers={"authorization": f"Bearer {key}"})
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise ConfigError(f"the endpoint's address {url!r} is no URL; give it as http://HOST:PORT.") from error
    except httpx.TimeoutException as error:
        raise ResourceError(
            f"the endpoint at {base} does not answer in time; check the address and the network."
        ) from error
    except httpx.HTTPError as error:
        raise ResourceError(
            f"no endpoint answers at {base}; start one with luthier serve, or name it by --endpoint."
        ) from error
    if reply.status_code == 401:
        raise ConfigError(f"the endpoint at {base} does not know the API key that was given; give another with {how}.")
    if reply.status_code >= 500:
        raise ResourceError(
            f"the endpoint at {base} failed to tell its status ({reply.status_code}); its log tells why."
        )
    told = _json(reply)
    if reply.status_code != 200 or told.get("object") != "status":
        raise ResourceError(_foreign(base))
    return {"url": base, **told}


def _is_alive(client: httpx.Client) -> bool:
    reply = client.get(HEALTH)
    return reply.status_code == 200 and _json(reply) == {"status": "ok"}


def _json(reply: httpx.Response) -> dict[str, Any]:
    try:
        told = reply.json()
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _foreign(base: str) -> str:
    return f"what answers at {base} is no endpoint of luthier's, or one that still starts; check --endpoint."
