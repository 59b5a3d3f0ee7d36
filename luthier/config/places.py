"""A config whose paths mean the same from every directory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from luthier.config.run import RunConfig
from luthier.paths import is_uri

_SPLITS = ("train", "validation", "test")
_FILES = ("json_schema", "prices")


def with_absolute_paths(cfg: RunConfig) -> RunConfig:
    """A copy with data, local model, storage and registry paths resolved against the current directory.

    It is what lies beside an artifact, so that the artifact can be evaluated or merged from anywhere. A config's hash
    is that of the config as it was given, which does not depend on the directory.
    """
    datasets = tuple(
        one.model_copy(
            update={split: absolute_or_uri(path) for split in _SPLITS if (path := getattr(one, split)) is not None}
        )
        for one in cfg.datasets
    )
    changes: dict[str, Any] = {"datasets": datasets, "storage_path": absolute(cfg.storage_path)}
    if is_local_model(cfg.model.model_name_or_path):
        place = absolute(cfg.model.model_name_or_path)
        changes["model"] = cfg.model.model_copy(update={"model_name_or_path": place})
    files: dict[str, Any] = {
        name: absolute(path) for name in _FILES if (path := getattr(cfg.evaluate, name)) is not None
    }
    harness = cfg.evaluate.harness
    if harness is not None and harness.include_path is not None:
        files["harness"] = harness.model_copy(update={"include_path": absolute(harness.include_path)})
    if files:
        changes["evaluate"] = cfg.evaluate.model_copy(update=files)
    changes["registry"] = cfg.registry.model_copy(update={"uri": absolute_or_uri(cfg.registry.uri)})
    return cfg.model_copy(update=changes)


def absolute(path: str) -> str:
    """The path from the root; links stay as they are, because they may point elsewhere tomorrow."""
    return str(Path(os.path.abspath(Path(path).expanduser())))  # noqa: PTH100  # resolve() would follow links


def absolute_or_uri(place: str) -> str:
    """The path from the root; a URI as it is."""
    return place if is_uri(place) else absolute(place)


def is_local_model(name: str) -> bool:
    """Whether ``model_name_or_path`` is a directory rather than a hub id or a package."""
    return name.startswith((".", "/", "~")) or (not name.startswith("package:") and Path(name).is_dir())
