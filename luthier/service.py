"""The endpoint as Ray Serve builds it from a file of its own, such as KubeRay's RayService holds."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from luthier.config.base import Config
from luthier.errors import ConfigError


class ServiceArgs(Config):
    """``args`` of the application."""

    config: str
    """YAML of the run, which every node must see."""

    models: tuple[str, ...] = ()
    """Registered models to serve. Empty: the config's own, at its alias."""

    overrides: tuple[str, ...] = ()
    """``dotted.key=value`` assignments to the config."""


def build(args: dict[str, Any]) -> Any:
    """The application that ``import_path: luthier.service:build`` stands for; it must be named ``luthier``.

    The config's registry, models and ``$LUTHIER_CACHE`` must lie on storage that every node sees.

    Args:
        args: As of :class:`ServiceArgs`.

    Raises:
        ConfigError: The arguments or the config are wrong, or the environment holds no key of the endpoint.
        RegistryError: A reference means nothing.
    """
    from luthier import endpoints, stages
    from luthier.cluster.environment import apply_environment
    from luthier.config import load_config
    from luthier.serving import declare
    from luthier.trainers.base_model import base_digest
    from luthier.view import QuietView

    try:
        given = ServiceArgs.model_validate(args)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"args.{'.'.join(map(str, first['loc']))}: {first['msg']}.") from error
    cfg = load_config(given.config, given.overrides)
    apply_environment(cfg)
    view = QuietView()
    versions, embedder = endpoints.to_serve(cfg, given.models, view)
    base_model_dir = embedder or stages.prepare_model(cfg, view)
    return declare(
        cfg,
        base_model_dir=base_model_dir,
        refs=[version.ref for version in versions],
        base_digest=base_digest(base_model_dir),
        other_bases=endpoints.bases_beside(cfg, versions, base_model_dir, view),
    )
