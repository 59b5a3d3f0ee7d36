"""Bring an endpoint up on the running Ray cluster, and take it down again."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from luthier.config import RunConfig
from luthier.config.capture import CaptureConfig
from luthier.config.serve import ServeConfig
from luthier.errors import ConfigError, ResourceError, ServingError
from luthier.precision import Dtype
from luthier.registry import Registry
from luthier.serving.address import base_url, require_free_port
from luthier.serving.capture_files import check_directory
from luthier.serving.catalog import Catalog, build_catalog
from luthier.serving.endpoint import Endpoint
from luthier.serving.front import Front
from luthier.serving.keys import ApiKey, KeyRing, digest_of
from luthier.serving.spec import EngineSpec

APP_NAME = "luthier"

SHARED_PREFIX = "/luthier"
"""Where the endpoint lies when Ray Serve runs another application at ``/``."""

STOP_TIMEOUT_S = 60.0

_ANSWER_TIMEOUT_S = 30.0

# Of a replica's traceback, the last exception and what it says.
_RAISED = re.compile(r"^(?:[\w.]*\.)?(\w+(?:Error|Exception|Exit): .+)$", re.MULTILINE)


def deploy(cfg: RunConfig, *, base_model_dir: Path, refs: Sequence[str], base_digest: str) -> Endpoint:
    """Serve the base model once, with every referenced adapter on it.

    Args:
        cfg: Names, limits, address and registry.
        base_model_dir: The prepared base model.
        refs: Registered models to serve.
        base_digest: Digest of the base model, as manifests record it.

    Raises:
        ConfigError: No API key in the environment, a file of keys that can't be read, a directory for captured requests
            that others can enter, the port is taken, or Ray Serve runs on another one.
        ResourceError: The cluster has not what all engines together reserve.
        ServingError: An endpoint runs on this cluster already, a model can't be served, or the engine did not come up
            in time; the message holds its own reason.
    """
    from ray import serve

    key = os.environ.get(cfg.serve.api_key_env)
    if not key:
        raise ConfigError(f"no API key: environment variable {cfg.serve.api_key_env} (serve.api_key_env) is not set.")
    master = ApiKey(name="master", sha256=digest_of(key))
    KeyRing(master, Path(cfg.serve.keys_file) if cfg.serve.keys_file else None)  # refuses a file that can't be read
    if cfg.serve.capture.path is not None:
        check_directory(Path(cfg.serve.capture.path))
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    catalog = build_catalog(cfg, base_model_dir, refs, base_digest)
    require_room(catalog.engines)
    prefix, started = _open_serve(cfg.serve)
    url = base_url(cfg.serve.host, cfg.serve.port, prefix)
    front = _front(cfg, catalog, prefix)
    try:
        target = serve.RunTarget(target=_application(front, master), name=APP_NAME, route_prefix=prefix)
        serve.run_many([target], wait_for_applications_running=False, wait_for_ingress_deployment_creation=False)
        _wait_until_running(cfg.serve.startup_timeout_s)
        engine = serve.get_deployment_handle(_engine_name(catalog.engines[0].model_id), APP_NAME)
        dtype: Dtype = engine.dtype.remote().result(timeout_s=_ANSWER_TIMEOUT_S)
    except BaseException:
        _take_down(APP_NAME, started)
        raise
    return Endpoint(url, tuple(sorted(front.watch().look().canonical)), APP_NAME, dtype, started)


def _front(cfg: RunConfig, catalog: Catalog, prefix: str) -> Front:
    # Replicas may run in another working directory.
    places = {
        key: str(Path(value).resolve()) for key in ("keys_file", "request_log") if (value := getattr(cfg.serve, key))
    }
    settings = cfg.serve.model_copy(update={**places, "capture": _capture(cfg.serve.capture)})
    return Front(
        serve=settings,
        catalog=catalog,
        registry_uri=Registry(cfg.registry.uri).location,
        default_alias=cfg.registry.alias,
        created_s=int(time.time()),
        capacity=settings.max_num_seqs * settings.num_replicas * len(catalog.engines) + settings.max_queued_requests,
        root=prefix.rstrip("/"),
    )


def _capture(settings: CaptureConfig) -> CaptureConfig:
    if settings.path is None:
        return settings
    return settings.model_copy(update={"path": str(Path(settings.path).resolve())})


def require_room(engines: Sequence[EngineSpec]) -> None:
    """Refuse engines that the running cluster can never hold together: Ray would wait for ever.

    Raises:
        ResourceError: Names what is short, and the remedy.
    """
    import ray

    present: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    asked = {key: 0.0 for spec in engines for key in spec.resources}
    for spec in engines:
        for key, amount in spec.resources.items():
            asked[key] += amount * spec.serve.num_replicas
    for key, amount in asked.items():
        if amount > present.get(key, 0.0):
            raise ResourceError(
                f"the endpoint asks for {amount:g} {key} ({len(engines)} engines: one for the base model with its "
                f"adapters, one for each full model), the cluster has {present.get(key, 0.0):g}; serve fewer models, "
                "lower serve.num_replicas or serve.num_cpus, or use a larger cluster."
            )


def stop(endpoint: Endpoint) -> None:
    """Take the endpoint down, and Ray Serve with it where it was started for it."""
    _take_down(endpoint.app_name, endpoint.started_serve)


def _take_down(app_name: str, started_serve: bool) -> None:
    from ray import serve

    if not started_serve:
        serve.delete(app_name)
        return
    controller = _controller()
    if controller is not None:
        _shut_down(controller)
    serve.shutdown()  # drops this process's handles


def _open_serve(settings: ServeConfig) -> tuple[str, bool]:
    """Start Ray Serve, or find it running.

    Returns:
        The endpoint's path prefix, and whether Ray Serve was started here.
    """
    import ray
    from ray import serve
    from ray.serve.config import HTTPOptions

    controller = _controller()
    if controller is None:
        require_free_port(settings.host, settings.port)
        serve.start(
            http_options=HTTPOptions(
                host=settings.host, port=settings.port, request_timeout_s=settings.request_timeout_s
            )
        )
        return "/", True
    if APP_NAME in serve.status().applications:
        raise ServingError("an endpoint runs on this cluster already; stop it first, or use another cluster.")
    running = ray.get(controller.get_http_config.remote())
    if running.port != settings.port:
        raise ConfigError(
            f"serve.port: {settings.port}, but Ray Serve runs on this cluster already and listens on port "
            f"{running.port}; set serve.port to that."
        )
    details = ray.get(controller.get_serve_instance_details.remote())
    taken = {application["route_prefix"] for application in details["applications"].values()}
    return (SHARED_PREFIX if "/" in taken else "/"), False


def _controller() -> Any:
    """Ray Serve's controller on this cluster; None: Serve does not run."""
    import ray
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

    try:
        return ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
    except ValueError:
        return None


def _shut_down(controller: Any) -> None:
    """Stop Ray Serve and wait for its end.

    ``serve.shutdown`` does the same by a call that never returns, of whose failure Ray then tells at length.
    """
    import ray

    ray.get(controller.graceful_shutdown.remote(wait=False))
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while _controller() is not None and time.monotonic() < deadline:
        time.sleep(0.1)


def _application(front: Front, master: ApiKey) -> Any:
    """Engines and the ingress before them, bound."""
    from ray import serve

    from luthier.serving.ingress import Ingress
    from luthier.serving.replica import ModelServer

    engines = {
        spec.model_id: serve.deployment(ModelServer, **engine_options(spec)).bind(spec)
        for spec in front.catalog.engines
    }
    return serve.deployment(
        serve.ingress()(Ingress),
        name="ingress",
        num_replicas=1,
        # The ingress itself refuses what is too much, in the API's form; Ray Serve's own bound lies beyond that.
        max_ongoing_requests=front.capacity * 2,
        max_queued_requests=-1,
        ray_actor_options={"num_cpus": 0},
    ).bind(engines, front, master)


def engine_options(spec: EngineSpec) -> dict[str, Any]:
    """How Ray Serve runs an engine's replicas."""
    settings = spec.serve
    return {
        "name": _engine_name(spec.model_id),
        "num_replicas": settings.num_replicas,
        "max_ongoing_requests": settings.max_num_seqs * 2,
        "max_queued_requests": settings.max_queued_requests,
        # The placement group holds the engine; the replica actor around it only waits.
        "placement_group_bundles": [spec.resources],
        "placement_group_strategy": "PACK",
        "ray_actor_options": {"num_cpus": 0, "runtime_env": {"env_vars": _environment(spec)}},
        "max_constructor_retry_count": 1,  # what fails once fails again, a minute later
        "health_check_period_s": 10.0,
        "health_check_timeout_s": 30.0,
        "graceful_shutdown_timeout_s": 10.0,
    }


def _engine_name(model_id: str) -> str:
    """The deployment of a model's engine."""
    return "engine-" + re.sub(r"[^A-Za-z0-9_-]", "-", model_id)


def _environment(spec: EngineSpec) -> dict[str, str]:
    settings = spec.serve
    common = {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_DO_NOT_TRACK": "1",
        "VLLM_MAX_N_SEQUENCES": str(settings.max_num_seqs),
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "INFO"),
    }
    if spec.gpu:
        return common
    return common | {
        "VLLM_CPU_KVCACHE_SPACE": str(settings.cpu_kvcache_gb),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(max(1, int(settings.num_cpus))),
    }


def _wait_until_running(timeout_s: float) -> None:
    """Poll until the application runs.

    Raises:
        ServingError: It failed, with the engine's reason, or the time is up.
    """
    from ray import serve

    deadline = time.monotonic() + timeout_s
    while True:
        application = serve.status().applications[APP_NAME]
        if application.status == "RUNNING":
            return
        if application.status in ("DEPLOY_FAILED", "UNHEALTHY"):
            raise ServingError(f"the endpoint failed to start: {_reason(application)}")
        if time.monotonic() > deadline:
            raise ServingError(
                f"the endpoint did not start within serve.startup_timeout_s={timeout_s:.0f} s (state "
                f"{application.status}): {_reason(application)}; check the cluster's free CPUs, or raise the limit."
            )
        time.sleep(0.2)


def _reason(application: Any) -> str:
    """What the deployments say of themselves; of a traceback the exceptions alone."""
    told = [f"{name}: {one.message}" for name, one in application.deployments.items() if one.message]
    told = told or [application.message or "no reason given"]
    return " ".join(" ".join(dict.fromkeys(_RAISED.findall(one))) or one for one in told)
