"""The base models of registered adapters, found where they were found when the adapters were trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.config import load_config
from luthier.config.model import ModelConfig
from luthier.errors import ModelError
from luthier.manifest import Manifest
from luthier.view import View

if TYPE_CHECKING:
    from luthier.registry import ModelVersion, Registry
    from luthier.serving import Base


def base_of(artifact_dir: Path, manifest: Manifest, *, offline: bool = False) -> Path:
    """The very base model that an adapter was trained on.

    Args:
        artifact_dir: Holds the resolved config of the training, which names the model by its place and revision; without
            one the manifest's name counts.
        manifest: The adapter's.
        offline: Do not reach the hub, whatever that config says.

    Raises:
        ModelError: It is not to be had, or is another one by now.
    """
    from luthier.trainers.base_model import base_digest, prepare_base

    model = ModelConfig(model_name_or_path=manifest.base_model.model_name_or_path)
    if "config.yaml" in manifest.files:
        cfg = load_config(artifact_dir / "config.yaml")
        model, offline = cfg.model, offline or cfg.offline
    base_model_dir = prepare_base(model, offline=offline, objective=manifest.objective)
    digest = base_digest(base_model_dir)
    if digest != manifest.base_model.digest:
        raise ModelError(
            f"{model.model_name_or_path} has digest {digest[:12]}, but the adapter was trained on one with "
            f"{manifest.base_model.digest[:12]}; restore that model."
        )
    return base_model_dir


def other_bases(
    registry: Registry, versions: Sequence[ModelVersion], present: str, view: View, *, offline: bool
) -> tuple[Base, ...]:
    """The base models that adapters need besides the one that is there already.

    Args:
        registry: Holds the adapters.
        versions: What is to be served; whole models need no base.
        present: Digest of the base that is there.
        view: Shows what happens.
        offline: Do not reach the hub.

    Raises:
        ModelError: One is not to be had, or is another one by now.
    """
    from luthier.serving import Base

    found: dict[str, Base] = {}
    for version in versions:
        trained_on = version.manifest.base_model
        if not version.manifest.is_adapter or trained_on.digest in (present, *found):
            continue
        with view.stage("model", f"Preparing {trained_on.model_name_or_path}, the base model of {version.ref}"):
            directory = base_of(registry.fetch(version.ref), version.manifest, offline=offline)
        found[trained_on.digest] = Base(trained_on.model_name_or_path, directory, trained_on.digest)
    return tuple(found.values())
