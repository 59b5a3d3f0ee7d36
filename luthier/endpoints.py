"""Endpoints of registered models: held up by the process that started them, or left to the cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier import live, stages
from luthier.bases import other_bases
from luthier.config import RunConfig
from luthier.errors import ConfigError, RegistryError
from luthier.preflight import check_port
from luthier.rundir import api_key, scratch_directory
from luthier.secret_refs import apply_secrets
from luthier.view import QuietView, View

if TYPE_CHECKING:
    from luthier.registry import ModelVersion
    from luthier.serving import Base, Endpoint


def serve(
    cfg: RunConfig,
    refs: Sequence[str] = (),
    view: View | None = None,
    *,
    on_live: Callable[[dict[str, Any]], None] | None = None,
) -> None:
    """Serve registered models until interrupted.

    Args:
        cfg: Names the registry and the endpoint's limits, and the base model that is served where nothing else is.
        refs: Registered models, of any base model; none: the config's own, at its alias, or else a base model that embeds.
        view: Shows what happens.
        on_live: Called with ``base_url``, ``models`` and ``api_key_file`` once every model has answered.

    Raises:
        RegistryError: A reference means nothing.
        ModelError: The base model of an adapter is not to be had, or is another one by now.
        ConfigError: The port is taken.
    """
    from luthier.cluster import check_resources
    from luthier.cluster.preflight import checked
    from luthier.cluster.session import start
    from luthier.serving import stop

    view = view or QuietView()
    apply_secrets(cfg)
    versions, embedder = to_serve(cfg, refs, view)
    with (
        checked(cfg, ("serve",), (partial(check_port, cfg),), port=True),
        scratch_directory(cfg, "serve-") as directory,
        api_key(cfg, directory) as key_file,
    ):
        base_model_dir = embedder or stages.prepare_model(cfg, view)
        others = bases_beside(cfg, versions, base_model_dir, view)
        with start(cfg) as session:
            check_resources(cfg, session.resources, ("serve",))
            endpoint = live.go_live(cfg, base_model_dir, [one.ref for one in versions], view, others)
            try:
                live.warm_up(cfg, endpoint, view)
                if on_live is not None:
                    key = None if key_file is None else str(key_file)
                    on_live({"base_url": endpoint.base_url, "models": list(endpoint.models), "api_key_file": key})
                live.hold(view, live.curl_line(cfg, endpoint, _first(versions, endpoint), key_file))
            finally:
                with view.stage("stop", "Stopping the endpoint when it has ended what it has begun"):
                    stop(endpoint)


def serve_detached(cfg: RunConfig, refs: Sequence[str] = (), view: View | None = None) -> dict[str, Any]:
    """Bring an endpoint up on a running cluster, or change the one that is there while it answers, and leave it.

    Args:
        cfg: As of :func:`serve`.
        refs: Registered models; none: the config's own, at its alias, or else a base model that embeds.
        view: Shows what happens.

    Returns:
        ``base_url`` and ``models``.

    Raises:
        ConfigError: No cluster is named, or the environment holds no key.
        RegistryError: A reference means nothing.
        ServingError: A model can't be served; a running endpoint is then what it was before.
    """
    from luthier.cluster import check_resources
    from luthier.cluster.preflight import checked
    from luthier.cluster.session import start

    view = view or QuietView()
    apply_secrets(cfg)
    _require_cluster(cfg)
    if not os.environ.get(cfg.serve.api_key_env):
        raise ConfigError(
            f"an endpoint that outlives this command needs a key that does so: set {cfg.serve.api_key_env} "
            "(serve.api_key_env) in the environment."
        )
    versions, embedder = to_serve(cfg, refs, view)
    with checked(cfg, ("serve",), port=True):
        base_model_dir = embedder or stages.prepare_model(cfg, view)
        others = bases_beside(cfg, versions, base_model_dir, view)
        with start(cfg) as session:
            check_resources(cfg, session.resources, ("serve",))
            endpoint = live.roll_out(cfg, base_model_dir, [one.ref for one in versions], view, others)
            live.warm_up(cfg, endpoint, view)
    return {"base_url": endpoint.base_url, "models": list(endpoint.models)}


def take_down(cfg: RunConfig, view: View | None = None) -> None:
    """Stop the endpoint that runs on a cluster, once it has ended what it has begun.

    Args:
        cfg: Names the cluster.
        view: Shows what happens.

    Raises:
        ConfigError: No cluster is named.
        ServingError: No endpoint runs there.
    """
    from luthier.cluster.session import start
    from luthier.serving import shut_down

    view = view or QuietView()
    _require_cluster(cfg)
    with start(cfg), view.stage("stop", "Stopping the endpoint when it has ended what it has begun"):
        shut_down()


def to_serve(cfg: RunConfig, refs: Sequence[str], view: View) -> tuple[list[ModelVersion], Path | None]:
    """The versions, each once, or else the directory of a base model that embeds and needs none.

    Raises:
        RegistryError: A reference means nothing.
    """
    from luthier.registry import Registry

    registry = Registry(cfg.registry.uri, cfg.registry.alias)
    try:
        asked = refs or [f"{cfg.name}@{cfg.registry.alias}"]
        return list({version.ref: version for version in map(registry.resolve, asked)}.values()), None
    except RegistryError:
        embedder = None if refs else live.prepare_embedder(cfg, view)
        if embedder is None:
            raise
        return [], embedder


def bases_beside(
    cfg: RunConfig, versions: Sequence[ModelVersion], base_model_dir: Path, view: View
) -> tuple[Base, ...]:
    """Base models besides the config's that the versions are adapters of."""
    from luthier.registry import Registry
    from luthier.trainers.base_model import base_digest

    registry = Registry(cfg.registry.uri, cfg.registry.alias)
    return other_bases(registry, versions, base_digest(base_model_dir), view, offline=cfg.offline)


def _first(versions: Sequence[ModelVersion], endpoint: Endpoint) -> str:
    """A name to try."""
    return versions[0].name if versions else endpoint.models[0]


def _require_cluster(cfg: RunConfig) -> None:
    if cfg.cluster.address is None and not os.environ.get("RAY_ADDRESS"):
        raise ConfigError(
            "cluster.address: not set, and neither is RAY_ADDRESS; an endpoint that outlives this command needs a cluster "
            "that does so: start one (ray start --head) and name it (--set cluster.address=HOST:6379)."
        )
