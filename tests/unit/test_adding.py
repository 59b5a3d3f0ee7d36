"""A whole model in a plain directory becomes a version; an adapter's base is found again."""

from __future__ import annotations

from pathlib import Path

import pytest

from luthier.adding import add
from luthier.bases import base_of, other_bases
from luthier.config import RunConfig, apply_overrides
from luthier.errors import ModelError, RegistryError
from luthier.manifest import BaseModelRef, load_manifest, write_manifest
from luthier.registry import Registry
from luthier.trainers.base_model import base_digest
from luthier.view import QuietView
from tests.unit.artifacts import make_artifact


def test_a_directory_becomes_a_whole_model(quickstart: RunConfig, shallow_base_dir: Path) -> None:
    uri = quickstart.registry.uri
    assert add("whole", shallow_base_dir, registry_uri=uri, dry_run=True) is None
    assert Registry(uri).list() == []
    version = add("whole", shallow_base_dir, registry_uri=uri, cfg=quickstart)
    assert version is not None
    assert (version.ref, version.aliases, version.manifest.is_adapter) == ("whole@1", (), False)
    assert version.manifest.base_model.digest == base_digest(shallow_base_dir)
    assert {"model/model.safetensors", "model/config.json", "config.yaml"} <= version.manifest.files.keys()
    assert {"tokenizer/tokenizer.json", "tokenizer/chat_template.jinja"} <= version.manifest.files.keys()
    assert not [name for name in version.manifest.files if name.startswith("tokenizer/") and "safetensors" in name]
    Registry(uri).fetch("whole@1")  # every digest is checked


def test_what_is_no_whole_model_is_refused(quickstart: RunConfig, shallow_base_dir: Path, tmp_path: Path) -> None:
    uri = quickstart.registry.uri
    with pytest.raises(ModelError, match=r"no config.json"):
        (tmp_path / "empty").mkdir()
        add("whole", tmp_path / "empty", registry_uri=uri)
    with pytest.raises(RegistryError, match="model name 'No Name' is not valid"):
        add("No Name", shallow_base_dir, registry_uri=uri)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"an adapter, not a whole model; export it with --merge"):
        add("whole", tmp_path / "adapter", registry_uri=uri)
    assert Registry(uri).list() == []


def test_the_bases_of_adapters_are_found_and_those_that_changed_are_refused(
    quickstart: RunConfig, shallow_base_dir: Path, base_model_dir: Path, tmp_path: Path
) -> None:
    cfg = apply_overrides(quickstart, {"model.model_name_or_path": str(shallow_base_dir)})
    registry, digest = Registry(cfg.registry.uri), base_digest(shallow_base_dir)
    one, two = (
        registry.register(make_artifact(tmp_path / name, cfg, content=name, base_digest=digest), name) for name in "ab"
    )
    (found,) = other_bases(registry, [one, two], base_digest(base_model_dir), QuietView(), offline=True)
    assert (found.model_dir, found.digest, found.name) == (shallow_base_dir, digest, "model")
    assert other_bases(registry, [one], digest, QuietView(), offline=True) == ()
    changed = registry.register(make_artifact(tmp_path / "c", cfg, content="c", base_digest="e" * 64), "c")
    with pytest.raises(ModelError, match=r"the adapter was trained on one with eeeeeeeeeeee; restore that model"):
        other_bases(registry, [changed], digest, QuietView(), offline=True)


def test_without_a_config_the_manifest_names_the_base(
    quickstart: RunConfig, shallow_base_dir: Path, tmp_path: Path
) -> None:
    artifact = make_artifact(tmp_path / "a", quickstart)
    (artifact / "config.yaml").unlink()
    (artifact / "manifest.json").unlink()
    base = BaseModelRef(model_name_or_path=str(shallow_base_dir), digest=base_digest(shallow_base_dir))
    write_manifest(artifact, name="a", method="lora", base_model=base, config_hash="c", data={}, metrics={})
    assert base_of(artifact, load_manifest(artifact), offline=True) == shallow_base_dir
