"""Ray Serve itself: started or found running, and stopped."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from luthier.config.serve import ServeConfig
from luthier.errors import ConfigError, ServingError
from luthier.serving.address import require_free_port
from luthier.serving.application import APP_NAME, drain_s
from luthier.serving.front import Front

SHARED_PREFIX = "/luthier"
"""Where the endpoint lies when Ray Serve runs another application at ``/``."""

_STOP_MARGIN_S = 60.0


def open_serve(settings: ServeConfig) -> tuple[str, bool]:
    """Start Ray Serve, or find it running.

    Returns:
        The endpoint's path prefix, and whether Ray Serve was started here.

    Raises:
        ConfigError: The port is taken, or Ray Serve runs on another one.
        ServingError: An endpoint runs on this cluster already.
    """
    import ray
    from ray import serve
    from ray.serve.config import HTTPOptions

    found = controller()
    if found is None:
        require_free_port(settings.host, settings.port)
        # The ingress itself ends what takes too long, in the API's form; Ray Serve's own limit lies beyond that.
        serve.start(
            http_options=HTTPOptions(host=settings.host, port=settings.port, request_timeout_s=drain_s(settings))
        )
        return "/", True
    if is_up():
        raise ServingError(
            "an endpoint runs on this cluster already; change it (luthier serve --detach), stop it (luthier serve "
            "--down), or use another cluster."
        )
    running = ray.get(found.get_http_config.remote())
    if running.port != settings.port:
        raise ConfigError(
            f"serve.port: {settings.port}, but Ray Serve runs on this cluster already and listens on port "
            f"{running.port}; set serve.port to that."
        )
    details = ray.get(found.get_serve_instance_details.remote())
    taken = {application["route_prefix"] for application in details["applications"].values()}
    return (SHARED_PREFIX if "/" in taken else "/"), False


def take_down(front: Front) -> None:
    """Stop an endpoint once it has ended what it has begun, and Ray Serve with it where it was started for it."""
    import ray
    from ray import serve

    timeout_s = drain_s(front.serve) + _STOP_MARGIN_S
    if not front.started_serve:
        serve.delete(APP_NAME, _blocking=False)
        _wait_for(lambda: not is_up(), timeout_s)
        return
    found = controller()
    if found is not None:
        # serve.shutdown does the same by a call that never returns, of whose failure Ray then tells at length.
        ray.get(found.graceful_shutdown.remote(wait=False))
        _wait_for(lambda: controller() is None, timeout_s)
    serve.shutdown()  # drops this process's handles


def is_up() -> bool:
    """Whether an endpoint runs on this cluster, or is about to."""
    from ray import serve

    return controller() is not None and APP_NAME in serve.status().applications


def controller() -> Any:
    """Ray Serve's controller on this cluster; None: Serve does not run."""
    import ray
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

    try:
        return ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
    except ValueError:
        return None


def _wait_for(done: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not done() and time.monotonic() < deadline:
        time.sleep(0.1)
