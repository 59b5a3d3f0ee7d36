"""Bring an endpoint up on the running Ray cluster, change it while it answers, and take it down again."""

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
from luthier.errors import ConfigError, ServingError
from luthier.precision import Dtype
from luthier.registry import Registry
from luthier.serving.address import base_url
from luthier.serving.application import APP_NAME, application, engine_name
from luthier.serving.capture_files import check_directory
from luthier.serving.catalog import Catalog, build_catalog
from luthier.serving.controller import is_up, open_serve, take_down
from luthier.serving.endpoint import Endpoint
from luthier.serving.front import Front
from luthier.serving.keys import ApiKey, KeyRing, digest_of
from luthier.serving.room import has_room_beside, require_room
from luthier.serving.spec import Base

_ANSWER_TIMEOUT_S = 30.0

# Of a replica's traceback, each exception and what it says; pydantic says it on the next line.
_RAISED = re.compile(
    r"^(?:[\w.]*\.)?(\w+(?:Error|Exception|Exit): (?!Traceback).+(?:\n +Value error, .+?(?=\.? \[type=|$))?)",
    re.MULTILINE,
)


def deploy(
    cfg: RunConfig, *, base_model_dir: Path, refs: Sequence[str], base_digest: str, other_bases: Sequence[Base] = ()
) -> Endpoint:
    """Serve each base model once, with every referenced adapter of it.

    Args:
        cfg: Names, limits, address and registry.
        base_model_dir: The prepared base model.
        refs: Registered models to serve.
        base_digest: Digest of the base model, as manifests record it.
        other_bases: Further base models that references are adapters of.

    Raises:
        ConfigError: No API key in the environment, a file of keys that can't be read, a directory for captured requests
            that others can enter, the port is taken, or Ray Serve runs on another one.
        ResourceError: The cluster has not what all engines together reserve.
        ServingError: An endpoint runs on this cluster already, a model can't be served, or the engine did not come up
            in time; the message holds its own reason.
    """
    master = _master_key(cfg.serve)
    catalog = _catalog(cfg, Base(cfg.model.model_name_or_path, base_model_dir, base_digest), other_bases, refs)
    prefix, started = open_serve(cfg.serve)
    front = _front(cfg, catalog, prefix, started_serve=started)
    try:
        return _run(front, master, surge=False)
    except BaseException:
        take_down(front)
        raise


def roll_out(
    cfg: RunConfig, *, base_model_dir: Path, refs: Sequence[str], base_digest: str, other_bases: Sequence[Base] = ()
) -> Endpoint:
    """Change the endpoint that runs on the cluster to other models or settings, while it answers.

    An engine whose settings stay the same goes on. Another one is replaced: where the cluster has room for one more, the
    old one answers until the new one can; else requests wait for the new one. What an engine has begun, it ends.

    Args:
        cfg: As of :func:`deploy`; the port stays what it was.
        base_model_dir: The prepared base model.
        refs: Registered models to serve.
        base_digest: Digest of the base model, as manifests record it.
        other_bases: Further base models that references are adapters of.

    Raises:
        ConfigError, ResourceError: As of :func:`deploy`; nothing has changed.
        ServingError: No endpoint runs, a model can't be served, or a new engine did not come up: the endpoint is then what
            it was before.
    """
    former, former_master = _deployed()
    master = _master_key(cfg.serve)
    catalog = _catalog(cfg, Base(cfg.model.model_name_or_path, base_model_dir, base_digest), other_bases, refs)
    if (cfg.serve.host, cfg.serve.port) != (former.serve.host, former.serve.port):
        raise ConfigError(
            f"serve.host, serve.port: the endpoint listens on {former.serve.host}:{former.serve.port}, which a running "
            "one can't change; set them to that, or stop it first (luthier serve --down)."
        )
    front = _front(cfg, catalog, former.root or "/", started_serve=former.started_serve)
    surge = has_room_beside(catalog.engines, _running(former))
    try:
        return _run(front, master, surge=surge)
    except ServingError as error:
        _run(former, former_master, surge=surge)
        raise ServingError(f"{error} The endpoint is again what it was before.") from error


def declare(
    cfg: RunConfig, *, base_model_dir: Path, refs: Sequence[str], base_digest: str, other_bases: Sequence[Base] = ()
) -> Any:
    """The endpoint's application, bound but not run: for a Ray Serve that others run, and whose nodes may come later.

    Args:
        cfg: As of :func:`deploy`; the host and the port are those that Ray Serve listens on.
        base_model_dir: The prepared base model.
        refs: Registered models to serve.
        base_digest: Digest of the base model, as manifests record it.
        other_bases: Further base models that references are adapters of.

    Raises:
        ConfigError, ServingError: As of :func:`deploy`.
    """
    master = _master_key(cfg.serve)
    base = Base(cfg.model.model_name_or_path, base_model_dir, base_digest)
    catalog = build_catalog(cfg, [base, *other_bases], refs)
    return application(_front(cfg, catalog, "/", started_serve=False), master, surge=False)


def shut_down() -> None:
    """Take down the endpoint that runs on the cluster, whoever started it, as :func:`stop` does.

    Raises:
        ServingError: There is none, or it does not answer.
    """
    front, _ = _deployed()
    take_down(front)


def stop(endpoint: Endpoint) -> None:
    """Take the endpoint down once it has ended what it has begun, and Ray Serve with it where it was started for it."""
    take_down(endpoint.front)


def _run(front: Front, master: ApiKey, *, surge: bool) -> Endpoint:
    """Run the application as described, and wait until all of it does.

    Raises:
        ServingError: It does not, or not in time.
    """
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    target = serve.RunTarget(
        target=application(front, master, surge=surge), name=APP_NAME, route_prefix=front.root or "/"
    )
    serve.run_many([target], wait_for_applications_running=False, wait_for_ingress_deployment_creation=False)
    _wait_until_running(front.serve.startup_timeout_s)
    return _endpoint(front)


def _endpoint(front: Front) -> Endpoint:
    from ray import serve

    engine = serve.get_deployment_handle(engine_name(front.catalog.engines[0].model_id), APP_NAME)
    dtype: Dtype = engine.dtype.remote().result(timeout_s=_ANSWER_TIMEOUT_S)
    url = base_url(front.serve.host, front.serve.port, front.root or "/")
    names = front.watch().look()
    tasks = {name: names.task_of(names.canonical[name]) for name in sorted(names.canonical)}
    return Endpoint(url, tasks, dtype, front)


def _running(front: Front) -> dict[str, int]:
    """Replicas of each engine that run, by model id."""
    from ray import serve

    deployments = serve.status().applications[APP_NAME].deployments
    states = {one.model_id: deployments[engine_name(one.model_id)].replica_states for one in front.catalog.engines}
    return {model_id: int(of_engine.get("RUNNING", 0)) for model_id, of_engine in states.items()}


def _deployed() -> tuple[Front, ApiKey]:
    """What the running endpoint was told.

    Raises:
        ServingError: There is none, or it does not answer.
    """
    from ray import serve

    if not is_up():
        raise ServingError("no endpoint runs on this cluster; start one: luthier serve.")
    try:
        ingress = serve.get_app_handle(APP_NAME)
        told: tuple[Front, ApiKey] = ingress.told.remote().result(timeout_s=_ANSWER_TIMEOUT_S)
    except TimeoutError as error:
        raise ServingError(f"the endpoint on this cluster did not answer within {_ANSWER_TIMEOUT_S:.0f} s.") from error
    return told


def _master_key(settings: ServeConfig) -> ApiKey:
    """The key to every model, by its digest.

    Raises:
        ConfigError: It is not in the environment, or the file of further keys can't be read.
    """
    key = os.environ.get(settings.api_key_env)
    if not key:
        raise ConfigError(f"no API key: environment variable {settings.api_key_env} (serve.api_key_env) is not set.")
    master = ApiKey(name="master", sha256=digest_of(key))
    KeyRing(master, Path(settings.keys_file) if settings.keys_file else None)  # refuses a file that can't be read
    if settings.capture.path is not None:
        check_directory(Path(settings.capture.path))
    return master


def _catalog(cfg: RunConfig, base: Base, others: Sequence[Base], refs: Sequence[str]) -> Catalog:
    """What is to be served, if the cluster can hold it."""
    catalog = build_catalog(cfg, [base, *others], refs)
    require_room(catalog.engines)
    return catalog


def _front(cfg: RunConfig, catalog: Catalog, prefix: str, *, started_serve: bool) -> Front:
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
        root=prefix.rstrip("/"),
        started_serve=started_serve,
    )


def _capture(settings: CaptureConfig) -> CaptureConfig:
    if settings.path is None:
        return settings
    return settings.model_copy(update={"path": str(Path(settings.path).resolve())})


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
    return " ".join(" ".join(" ".join(dict.fromkeys(_RAISED.findall(one))).split()) or one for one in told)
