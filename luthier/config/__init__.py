"""Configuration: frozen pydantic models, YAML with dotted overrides. Imports neither torch nor ray."""

from __future__ import annotations

from luthier.config.load import apply_overrides, config_hash, dump_yaml, json_schema, load_config
from luthier.config.places import with_absolute_paths
from luthier.config.run import RunConfig

__all__ = [
    "RunConfig",
    "apply_overrides",
    "config_hash",
    "dump_yaml",
    "json_schema",
    "load_config",
    "with_absolute_paths",
]
