"""A whole model that lies in a plain directory, such as a merged export, as a registered version."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.config import RunConfig, config_hash, dump_yaml, with_absolute_paths
from luthier.config.model import ModelConfig
from luthier.errors import ModelError

if TYPE_CHECKING:
    from luthier.registry import ModelVersion

_WEIGHTS = ("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json")


def add(
    name: str, directory: Path, *, registry_uri: str, cfg: RunConfig | None = None, dry_run: bool = False
) -> ModelVersion | None:
    """Register a whole model, which is then served by an engine of its own. No alias moves.

    Args:
        name: Its name in the registry.
        directory: A transformers model with safetensors weights, tokenizer and chat template.
        registry_uri: Where to register it.
        cfg: How it is to be judged, and what it must show to be promoted; None: it can be served, and promoted by force
            alone.
        dry_run: Check only.

    Returns:
        The version; None of a dry run.

    Raises:
        ModelError: The directory holds no such model.
        RegistryError: The name isn't valid.
        OutputError: The registry or the cache can't be written.
    """
    from luthier.manifest import BaseModelRef, write_manifest
    from luthier.registry import Registry
    from luthier.registry.names import check_name
    from luthier.trainers.base_model import base_digest, prepare_base, subcache
    from luthier.trainers.tokens import TOKENIZER_FILES

    check_name(name)
    place = directory.expanduser().resolve()
    if (place / "adapter_config.json").exists():
        raise ModelError(f"{directory}: an adapter, not a whole model; export it with --merge, and add the result.")
    prepare_base(ModelConfig(model_name_or_path=str(place)), offline=True)
    if dry_run:
        return None
    weights = {path for pattern in _WEIGHTS for path in place.glob(pattern)}
    tokenizer = {path for pattern in TOKENIZER_FILES for path in place.glob(pattern)} - weights
    with tempfile.TemporaryDirectory(dir=subcache("adding")) as scratch:
        artifact = Path(scratch)
        _place(weights, artifact / "model")
        _place(tokenizer, artifact / "tokenizer")
        if cfg is not None:
            (artifact / "config.yaml").write_text(dump_yaml(with_absolute_paths(cfg)), encoding="utf-8")
        write_manifest(
            artifact,
            name=name,
            method="full",
            base_model=BaseModelRef(model_name_or_path=str(place), digest=base_digest(place)),
            config_hash=config_hash(cfg) if cfg else "none",
            data={},
            metrics={},
        )
        return Registry(registry_uri).register(artifact, name)


def _place(files: Iterable[Path], directory: Path) -> None:
    """Put files into a new directory, without a copy where the file system can do that."""
    directory.mkdir()
    for path in files:
        try:
            os.link(path.resolve(), directory / path.name)
        except OSError:  # another file system, or one without hard links
            shutil.copyfile(path, directory / path.name)
