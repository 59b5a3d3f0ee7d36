"""Bring an endpoint up on the running Ray cluster, and take it down again."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from luthier.config import RunConfig
from luthier.errors import ConfigError, ServingError
from luthier.serving.catalog import Catalog, build_catalog
from luthier.serving.endpoint import Endpoint

APP_NAME = "luthier"


def deploy(cfg: RunConfig, *, base_model_dir: Path, refs: Sequence[str], base_digest: str) -> Endpoint:
    """Serve the base model once, with every referenced adapter on it.

    Args:
        cfg: Names, limits, address and registry.
        base_model_dir: The prepared base model.
        refs: Registered models to serve.
        base_digest: Digest of the base model, as manifests record it.

    Raises:
        ConfigError: No API key in the environment, or the port is taken.
        ServingError: The engine did not come up in time; the message holds its own reason.
    """
    from ray import serve
    from ray.serve.config import HTTPOptions

    key = os.environ.get(cfg.serve.api_key_env)
    if not key:
        raise ConfigError(f"no API key: environment variable {cfg.serve.api_key_env} (serve.api_key_env) is not set.")
    _require_free_port(cfg.serve.host, cfg.serve.port)
    catalog = build_catalog(cfg, base_model_dir, refs, base_digest)
    serve.start(
        http_options=HTTPOptions(
            host=cfg.serve.host, port=cfg.serve.port, request_timeout_s=cfg.serve.request_timeout_s
        )
    )
    try:
        target = serve.RunTarget(target=_application(cfg, catalog, key), name=APP_NAME, route_prefix="/")
        serve.run_many([target], wait_for_applications_running=False)
        _wait_until_running(cfg.serve.startup_timeout_s)
    except BaseException:
        serve.shutdown()
        raise
    base_url = f"http://{cfg.serve.host}:{cfg.serve.port}/v1"
    return Endpoint(base_url, tuple(sorted(catalog.names)), APP_NAME, started_serve=True)


def stop(endpoint: Endpoint) -> None:
    """Take the endpoint down, and Ray Serve with it where it was started for it."""
    from ray import serve

    serve.delete(endpoint.app_name)
    if endpoint.started_serve:
        serve.shutdown()


def _application(cfg: RunConfig, catalog: Catalog, key: str) -> Any:
    """Engines and the ingress before them, bound."""
    from ray import serve
    from ray.serve.llm import build_llm_deployment
    from ray.serve.llm.ingress import make_fastapi_ingress

    from luthier.serving.adapters import AdapterServer
    from luthier.serving.engine import engine_dtype, llm_config
    from luthier.serving.ingress import ENDPOINTS, RegistryIngress, key_digest, make_app, model_card

    gpu = cfg.train.use_gpu
    shared = partial(llm_config, cfg.serve, gpu=gpu, dtype=engine_dtype(cfg.serve, gpu=gpu))
    base = str(catalog.base_dir)
    configs = [
        shared(model_id=catalog.base_id, model_dir=base, tokenizer_dir=base, adapters=bool(catalog.adapters)),
        *(
            shared(model_id=name, model_dir=f"{place}/model", tokenizer_dir=f"{place}/tokenizer", adapters=False)
            for name, place in catalog.full.items()
        ),
    ]
    engines = {
        config.model_id: build_llm_deployment(
            config,
            deployment_cls=AdapterServer,
            bind_kwargs={"adapters": catalog.adapters if config.model_id == catalog.base_id else {}},
        )
        for config in configs
    }
    engine_of = {name: name for name in engines} | dict.fromkeys(catalog.adapters, catalog.base_id)
    ingress = make_fastapi_ingress(RegistryIngress, endpoint_map=ENDPOINTS, app=make_app(key_digest(key)))
    return serve.deployment(
        ingress,
        name="ingress",
        num_replicas=1,
        max_ongoing_requests=cfg.serve.max_num_seqs * 4,
        max_queued_requests=cfg.serve.max_queued_requests,
        ray_actor_options={"num_cpus": 0},
    ).bind(
        llm_deployments=engines,
        model_cards={config.model_id: model_card(config) for config in configs},
        names=catalog.names,
        engine_of=engine_of,
    )


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
        reasons = [f"{name}: {one.message}" for name, one in application.deployments.items() if one.message]
        if application.status in ("DEPLOY_FAILED", "UNHEALTHY"):
            raise ServingError(f"the endpoint failed to start: {application.message} {' '.join(reasons)}")
        if time.monotonic() > deadline:
            raise ServingError(
                f"the endpoint did not start within serve.startup_timeout_s={timeout_s:.0f} s (state "
                f"{application.status}): {application.message} {' '.join(reasons)}; check the cluster's free CPUs, or "
                "raise the limit."
            )
        time.sleep(0.2)


def _require_free_port(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"serve.port: {host}:{port} can't be listened on ({error.strerror}); set serve.port to a free port."
            ) from error
