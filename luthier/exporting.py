"""A registered model as a plain directory that peft, transformers and other servers read."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path
from typing import Any

from luthier.bases import base_of
from luthier.config import load_config
from luthier.config.model import ModelConfig
from luthier.errors import OutputError
from luthier.manifest import load_manifest
from luthier.paths import check_writable


def export(ref: str, output: Path, *, merge: bool, registry_uri: str, dry_run: bool = False) -> list[str]:
    """Write a registered model as a plain directory, which appears whole or not at all.

    Args:
        ref: ``name@version`` or ``name@alias``.
        output: Directory to make; it must not exist.
        merge: Merge an adapter into the base model.
        registry_uri: Where the model is registered.
        dry_run: Check only.

    Returns:
        Names of the files written; for a dry run of what would be copied.

    Raises:
        OutputError: ``output`` exists or can't be made.
        ModelError: The base model is not the one that the adapter was trained on.
    """
    from luthier.registry import Registry

    artifact_dir = Registry(registry_uri).fetch(ref)
    output = output.expanduser()
    _check_output(output)
    manifest = load_manifest(artifact_dir)
    merging = merge and manifest.is_adapter
    sources = [artifact_dir / "tokenizer"]
    if not merging:
        sources.append(artifact_dir / ("adapter" if manifest.is_adapter else "model"))
    if dry_run:
        return sorted(path.name for source in sources for path in source.iterdir())
    base_model_dir = base_of(artifact_dir, manifest) if merging else None
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.name}.{uuid.uuid4().hex}.partial")
    try:
        for source in sources:
            # Content alone: a registry's files are read-only.
            shutil.copytree(source, partial, dirs_exist_ok=True, copy_function=shutil.copyfile)
        if base_model_dir is not None:
            _merge(artifact_dir, base_model_dir, partial)
        partial.replace(output)
    except OSError as error:
        raise OutputError(f"output: {str(output)!r} can't be written ({error.strerror}); name another.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return sorted(path.name for path in output.iterdir())


def _check_output(output: Path) -> None:
    try:
        exists = output.exists() or output.is_symlink()
    except OSError as error:
        raise OutputError(f"output: {str(output)!r} can't be used ({error.strerror}); name another.") from error
    if exists:
        raise OutputError(f"output: {str(output)!r} exists already; name a new directory.")
    check_writable(output.parent, "output")


def _merge(artifact_dir: Path, base_model_dir: Path, output: Path) -> None:
    import torch

    model = merged(artifact_dir / "adapter", base_model_dir, load_config(artifact_dir / "config.yaml").model)
    model.to(torch.bfloat16).save_pretrained(output)


def merged(adapter_dir: Path, base_model_dir: Path, model: ModelConfig) -> Any:
    """A base with an adapter's change, and the modules trained whole beside it, in its own weights, in float32.

    Args:
        adapter_dir: A saved peft adapter.
        base_model_dir: What it was trained on.
        model: How to load the base.
    """
    import torch

    from luthier.trainers.model import load_adapter, load_base

    # The sum of base and adapter is rounded to bfloat16 once, not at each of its steps.
    base: Any = load_base(base_model_dir, model, torch.float32)
    return load_adapter(base, adapter_dir).merge_and_unload()
