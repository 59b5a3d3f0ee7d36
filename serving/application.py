"""The endpoint as Ray Serve runs it: a deployment that listens, and one for each engine behind it."""

from __future__ import annotations

import os
import re
from dataclasses import asdict
from typing import Any

from luthier import __version__
from luthier.config.serve import ServeConfig
from luthier.digests import sha256_json
from luthier.serving.front import Front
from luthier.serving.keys import ApiKey
from luthier.serving.spec import EngineSpec
from luthier.serving.vllm_log import UNCONFIGURED

APP_NAME = "luthier"

# Settings that an engine never sees: whoever changes these alone need not wait for it to start anew.
_NOT_THE_ENGINES = frozenset(
    {
        "host",
        "port",
        "api_key_env",
        "keys_file",
        "allowed_hosts",
        "allowed_origins",
        "limits",
        "canary",
        "capture",
        "redact_requests",
        "request_log",
        "adapters",
        "refresh_s",
        "num_replicas",
        "autoscale",
        "max_queued_requests",
        "startup_timeout_s",
        "request_timeout_s",
        "parity_rows",
        "parity_tolerance",
    }
)

_DRAIN_MARGIN_S = 5.0


def application(front: Front, master: ApiKey, *, surge: bool) -> Any:
    """Engines and the ingress before them, bound.

    A deployment keeps its replicas when the application is run again, unless what they were made from has changed.

    Args:
        front: What is served, and how.
        master: The key that opens every model.
        surge: Whether an engine's replacement starts before the engine is stopped.
    """
    from ray import serve

    from luthier.serving.classifier_replica import ClassifierServer
    from luthier.serving.ingress import Ingress
    from luthier.serving.replica import ModelServer

    engines = {
        spec.model_id: serve.deployment(
            ClassifierServer if spec.task == "classify" else ModelServer, **engine_options(spec, surge=surge)
        )
        .options(version=engine_version(spec), _internal=True)
        .bind(spec)
        for spec in front.catalog.engines
    }
    return serve.deployment(
        serve.ingress()(Ingress),
        name="ingress",
        num_replicas=1,
        # The ingress itself refuses what is too much, in the API's form; Ray Serve's own bound lies beyond that.
        max_ongoing_requests=front.capacity * 2,
        max_queued_requests=-1,
        max_surge_percent=100,
        graceful_shutdown_timeout_s=drain_s(front.serve),
        ray_actor_options={"num_cpus": 0},
    ).bind(engines, front, master)


def drain_s(settings: ServeConfig) -> float:
    """How long a replica that is stopped may take to end what it has begun, in seconds."""
    return settings.request_timeout_s + _DRAIN_MARGIN_S


def engine_name(model_id: str) -> str:
    """The deployment of a model's engine."""
    return "engine-" + re.sub(r"[^A-Za-z0-9_-]", "-", model_id)


def engine_version(spec: EngineSpec) -> str:
    """Tells engines apart that must not take each other's place; what they find in the registry is not part of it."""
    told = asdict(spec) | {"serve": spec.serve.model_dump(mode="json", exclude=set(_NOT_THE_ENGINES))}
    if spec.source is not None:
        told["adapters"] = None
    return sha256_json({"luthier": __version__, **told})[:16]


def engine_options(spec: EngineSpec, *, surge: bool = False) -> dict[str, Any]:
    """How Ray Serve runs an engine's replicas."""
    settings = spec.serve
    return {
        "name": engine_name(spec.model_id),
        **_scale(settings),
        "max_ongoing_requests": settings.max_num_seqs * 2,
        "max_queued_requests": settings.max_queued_requests,
        **_placed(spec),
        "max_constructor_retry_count": 1,  # what fails once fails again, a minute later
        "health_check_period_s": 10.0,
        "health_check_timeout_s": 30.0,
        "max_surge_percent": 100 if surge else 0,
        "graceful_shutdown_timeout_s": drain_s(settings),
    }


def _placed(spec: EngineSpec) -> dict[str, Any]:
    """What a replica reserves, and the environment that it finds."""
    environment = {"runtime_env": {"env_vars": engine_environment(spec)}}
    if spec.task == "classify":  # computed in the replica's own process
        reserved = {"num_cpus": spec.resources.get("CPU", 0.0), "num_gpus": spec.resources.get("GPU", 0.0)}
        return {"ray_actor_options": {**reserved, **environment}}
    return {
        # The placement group holds the engine; the replica actor around it only waits.
        "placement_group_bundles": [spec.resources],
        "placement_group_strategy": "PACK",
        "ray_actor_options": {"num_cpus": 0, **environment},
    }


def _scale(settings: ServeConfig) -> dict[str, Any]:
    if isinstance(settings.num_replicas, int):
        return {"num_replicas": settings.num_replicas}
    pace = settings.autoscale
    return {
        "autoscaling_config": {
            "min_replicas": settings.min_replicas,
            "initial_replicas": settings.first_replicas,
            "max_replicas": settings.max_replicas,
            "target_ongoing_requests": pace.target_ongoing_requests or float(settings.max_num_seqs),
            "look_back_period_s": pace.look_back_s,
            "upscale_delay_s": pace.upscale_delay_s,
            "downscale_delay_s": pace.downscale_delay_s,
        }
    }


def engine_environment(spec: EngineSpec) -> dict[str, str]:
    """Variables that an engine's processes find when they start."""
    settings = spec.serve
    common = {
        **UNCONFIGURED,
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
