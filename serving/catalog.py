"""Which names the endpoint answers to, and which files stand behind each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from luthier.config import RunConfig
from luthier.errors import ServingError
from luthier.registry import ModelVersion, Registry


@dataclass(frozen=True)
class Catalog:
    """The served models.

    Attributes:
        base_id: Name of the base model at the endpoint.
        base_dir: Its files.
        adapters: Canonical name (``name@N``) to the adapter's directory.
        names: Every name that a request may use, to the canonical one.
        full: Canonical name of a fully fine-tuned model to its directory and tokenizer.
    """

    base_id: str
    base_dir: Path
    adapters: dict[str, str]
    names: dict[str, str]
    full: dict[str, str]


def build_catalog(cfg: RunConfig, base_model_dir: Path, refs: Sequence[str], base_digest: str) -> Catalog:
    """Resolve references in the registry.

    Args:
        cfg: Names the base model and the registry.
        base_model_dir: The base model's files.
        refs: ``name``, ``name@N`` or ``name@alias`` of what to serve.
        base_digest: Digest of the base; an adapter of another base is refused.

    Raises:
        RegistryError: A reference does not exist.
        ServingError: An adapter was trained on another base, or its rank is above ``serve.max_lora_rank``.
    """
    registry = Registry(cfg.registry.uri, cfg.registry.alias)
    base_id = base_name(cfg.model.model_name_or_path)
    adapters: dict[str, str] = {}
    full: dict[str, str] = {}
    names = {base_id: base_id}
    for ref in refs:
        version = registry.resolve(ref)
        directory = registry.fetch(version.ref)
        if version.manifest.method == "lora":
            _check_base(version, base_digest, cfg)
            adapters[version.ref] = str(directory / "adapter")
        else:
            full[version.ref] = str(directory)
        names |= dict.fromkeys(_names_of(version), version.ref)
    return Catalog(base_id, base_model_dir, adapters, names, full)


def base_name(model_name_or_path: str) -> str:
    """The base model's name at the endpoint: the last part of its path, hub id or package."""
    return model_name_or_path.removeprefix("package:").rstrip("/").rpartition("/")[2]


def _names_of(version: ModelVersion) -> tuple[str, ...]:
    return (version.name, version.ref, *(f"{version.name}@{alias}" for alias in version.aliases))


def _check_base(version: ModelVersion, base_digest: str, cfg: RunConfig) -> None:
    trained_on = version.manifest.base_model
    if trained_on.digest != base_digest:
        raise ServingError(
            f"{version.ref} was trained on {trained_on.model_name_or_path} with digest {trained_on.digest[:12]}, but the "
            f"served base {cfg.model.model_name_or_path} has {base_digest[:12]}; serve it with its own base."
        )
