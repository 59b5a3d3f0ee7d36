"""Versions, aliases and history, on a local directory and in memory."""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path
from typing import Any

import pytest

from luthier.digests import sha256_file
from luthier.errors import ConfigError, IntegrityError, OutputError, RegistryError
from luthier.manifest import load_manifest, verify
from luthier.registry import Registry

WEIGHTS = b"\x02\x00\x00\x00\x00\x00\x00\x00{}"


EVALUATION = {"n": 2, "labels": ["a", "b"], "variants": {"tuned": {"metrics": {"macro_f1": 0.5}}}}


@pytest.fixture(params=["directory", "file", "memory"])
def registry(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    uris = {
        "directory": str(tmp_path / "registry"),
        "file": f"file://{tmp_path}/registry",
        "memory": f"memory://{uuid.uuid4().hex}",
    }
    return Registry(uris[request.param])


@pytest.fixture
def local(tmp_path: Path) -> Registry:
    return Registry(str(tmp_path / "registry"))


def move(registry: Registry, version: int, alias: str = "champion", **more: Any) -> None:
    registry.set_alias("sections", alias, version, actor="ada", reason="better", **more)


def test_versions_count_up_and_resolve(registry: Registry, artifact: Path) -> None:
    assert registry.list() == []
    first = registry.register(artifact, "sections", EVALUATION, actor="ada")
    second = registry.register(artifact, "sections")
    other = registry.register(artifact, "other")
    assert [first.ref, second.ref, other.ref] == ["sections@1", "sections@2", "other@1"]
    assert [version.ref for version in registry.list()] == ["other@1", "sections@1", "sections@2"]
    assert [version.ref for version in registry.list("sections")] == ["sections@1", "sections@2"]
    assert registry.resolve("sections@1") == first
    assert registry.resolve("sections@latest") == second
    assert first.manifest == load_manifest(artifact)
    assert first.registration.registered_by == "ada"


def test_version_ten_comes_after_nine(registry: Registry, artifact: Path) -> None:
    assert [registry.register(artifact, "sections").version for _ in range(11)] == list(range(1, 12))
    assert registry.resolve("sections@latest").version == 11


def test_fetch_gives_verified_files(registry: Registry, artifact: Path, tmp_path: Path) -> None:
    version = registry.register(artifact, "sections", EVALUATION)
    for path in (registry.fetch("sections@1"), registry.fetch("sections@1", tmp_path / "here" / "copy")):
        verify(path, version.manifest)
        assert (path / "adapter/adapter_model.safetensors").read_bytes() == WEIGHTS
        assert json.loads((path / "evaluation.json").read_text()) == EVALUATION
    assert registry.fetch("sections@1", tmp_path / "here" / "copy") == tmp_path / "here" / "copy"
    assert [entry.name for entry in (tmp_path / "here").iterdir()] == ["copy"]


def test_fetch_keeps_a_users_directory(registry: Registry, artifact: Path, tmp_path: Path) -> None:
    registry.register(artifact, "sections")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("words")
    with pytest.raises(OutputError, match="mine"):
        registry.fetch("sections@1", tmp_path / "mine")
    assert [entry.name for entry in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_local_fetch_is_in_place(local: Registry, artifact: Path) -> None:
    version = local.register(artifact, "sections")
    assert str(local.fetch("sections@1")) == version.uri


@pytest.mark.parametrize("name", ["adapter/adapter_model.safetensors", "tokenizer/tokenizer.json", "config.yaml"])
@pytest.mark.parametrize("how", ["changed", "missing"])
def test_fetch_names_the_bad_file(local: Registry, artifact: Path, tmp_path: Path, name: str, how: str) -> None:
    stored = Path(local.register(artifact, "sections").uri) / name
    stored.unlink()
    if how == "changed":
        stored.write_bytes(WEIGHTS + b" ")
    with pytest.raises(IntegrityError, match=name):
        local.fetch("sections@1")
    with pytest.raises(IntegrityError, match=name):
        local.fetch("sections@1", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("name", ["manifest.json", "registration.json"])
def test_a_changed_record_is_noticed(local: Registry, artifact: Path, name: str) -> None:
    path = Path(local.register(artifact, "sections").uri) / name
    path.write_text(path.read_text().replace('"sections"', '"sectionz"').replace('version": 1', 'version": -1'))
    with pytest.raises(IntegrityError, match=name):
        local.resolve("sections@1")


def test_evaluation_comes_back_and_is_checked(local: Registry, artifact: Path, tmp_path: Path) -> None:
    version = local.register(artifact, "sections", EVALUATION)
    assert local.get_evaluation("sections@1") == EVALUATION
    (Path(version.uri) / "evaluation.json").write_text('{"n": 3}')
    with pytest.raises(IntegrityError, match=r"evaluation\.json"):
        local.get_evaluation("sections@1")
    with pytest.raises(IntegrityError, match=r"evaluation\.json"):
        local.fetch("sections@1", tmp_path / "copy")


def test_a_report_comes_back_and_is_checked(local: Registry, artifact: Path, tmp_path: Path) -> None:
    version = local.register(artifact, "sections", EVALUATION, report=b"<p>good</p>")
    assert local.get_report("sections@1") == b"<p>good</p>"
    assert (local.fetch("sections@1", tmp_path / "copy") / "report.html").read_bytes() == b"<p>good</p>"
    local.register(artifact, "sections")
    with pytest.raises(RegistryError, match="without a report"):
        local.get_report("sections@2")
    (Path(version.uri) / "report.html").write_bytes(b"<p>better</p>")
    with pytest.raises(IntegrityError, match=r"report\.html"):
        local.get_report("sections@1")


def test_evaluation_is_taken_from_the_artifact(registry: Registry, artifact: Path) -> None:
    registry.register(artifact, "sections")
    with pytest.raises(RegistryError, match="without an evaluation"):
        registry.get_evaluation("sections@1")
    (artifact / "evaluation.json").write_text(json.dumps(EVALUATION))
    registry.register(artifact, "sections")
    assert registry.get_evaluation("sections@2") == EVALUATION


@pytest.mark.parametrize("bad", [{"f1": float("nan")}, {"f1": object()}])
def test_an_evaluation_that_is_not_json_registers_nothing(local: Registry, artifact: Path, bad: Any) -> None:
    with pytest.raises(ConfigError, match="evaluation is not plain JSON"):
        local.register(artifact, "sections", bad)
    assert not Path(local.uri).exists()


def test_a_damaged_artifact_registers_nothing(local: Registry, artifact: Path) -> None:
    (artifact / "config.yaml").write_text("name: changed\n")
    with pytest.raises(IntegrityError, match=r"config\.yaml"):
        local.register(artifact, "sections")
    assert not Path(local.uri).exists()


def test_only_listed_files_are_copied(local: Registry, artifact: Path) -> None:
    (artifact / "notes.txt").write_text("private")
    version = local.register(artifact, "sections")
    stored = {path.relative_to(version.uri).as_posix() for path in Path(version.uri).rglob("*") if path.is_file()}
    assert stored == {*version.manifest.files, "manifest.json", "registration.json"}


def test_registering_leaves_the_artifact_alone(local: Registry, artifact: Path) -> None:
    before = {path: sha256_file(path) for path in artifact.rglob("*") if path.is_file()}
    local.register(artifact, "sections", EVALUATION)
    assert {path: sha256_file(path) for path in artifact.rglob("*") if path.is_file()} == before


def test_versions_stay_when_the_artifact_goes(local: Registry, artifact: Path) -> None:
    local.register(artifact, "sections")
    shutil.rmtree(artifact)
    local.fetch("sections@1")


def test_aliases_move_and_are_recorded(registry: Registry, artifact: Path) -> None:
    for _ in range(3):
        registry.register(artifact, "sections")
    assert registry.aliases("sections") == {}
    move(registry, 1)
    move(registry, 2, figures={"macro_f1": 0.8, "interval": [0.7, 0.9]})
    move(registry, 3, alias="candidate")
    assert registry.aliases("sections") == {"champion": 2, "candidate": 3}
    assert registry.resolve("sections@champion").version == 2
    assert registry.resolve("sections").version == 2
    assert registry.resolve("sections@2").aliases == ("champion",)
    records = registry.history("sections")
    assert [(r.alias, r.previous, r.version) for r in records] == [
        ("champion", None, 1),
        ("champion", 1, 2),
        ("candidate", None, 3),
    ]
    assert (records[1].actor, records[1].reason) == ("ada", "better")
    assert records[1].figures == {"macro_f1": 0.8, "interval": [0.7, 0.9]}
    assert records[1].at.endswith("+00:00")


def test_rollback_goes_back_step_by_step(registry: Registry, artifact: Path) -> None:
    for number in (1, 2, 3):
        registry.register(artifact, "sections")
        move(registry, number)
    move(registry, 1, alias="candidate")
    assert registry.rollback("sections", "champion", "ada", "worse in production").version == 2
    assert registry.rollback("sections", "champion").version == 1
    with pytest.raises(RegistryError, match="no earlier version"):
        registry.rollback("sections", "champion")
    move(registry, 3)
    assert registry.rollback("sections", "champion").version == 1
    assert registry.aliases("sections") == {"champion": 1, "candidate": 1}
    assert [record.action for record in registry.history("sections")].count("rollback") == 3


def test_setting_the_same_version_twice_is_one_step(registry: Registry, artifact: Path) -> None:
    for number in (1, 2, 2):
        registry.register(artifact, "sections")
        move(registry, number)
    assert registry.rollback("sections", "champion").version == 1
    with pytest.raises(RegistryError, match="no earlier version"):
        registry.rollback("sections", "champion")


def test_compare_and_swap(registry: Registry, artifact: Path) -> None:
    for _ in range(3):
        registry.register(artifact, "sections")
    move(registry, 1, expected_version=0)
    move(registry, 2, expected_version=1)
    with pytest.raises(RegistryError, match="is at 2, not at 1 any more"):
        move(registry, 3, expected_version=1)
    with pytest.raises(RegistryError, match="is at 2, not at no version"):
        move(registry, 3, expected_version=0)
    registry.rollback("sections", "champion", expected_version=2)
    with pytest.raises(RegistryError, match="is at 1, not at 2"):
        registry.rollback("sections", "champion", expected_version=2)
    assert len(registry.history("sections")) == 3


def test_what_is_not_there(registry: Registry, artifact: Path) -> None:
    with pytest.raises(RegistryError, match=r"no model 'sections'.*models there: none"):
        registry.resolve("sections")
    registry.register(artifact, "sections")
    for ref in ("sections@7", "sections@champion", "sections"):
        with pytest.raises(RegistryError, match=r"sections has @1, @latest"):
            registry.resolve(ref)
    with pytest.raises(RegistryError, match="sections@2"):
        move(registry, 2)
    assert registry.history("sections") == []
    with pytest.raises(RegistryError, match=r"models there: sections"):
        registry.resolve("other@latest")


def test_a_lost_history_record_is_noticed(local: Registry, artifact: Path) -> None:
    local.register(artifact, "sections")
    for _ in range(3):
        move(local, 1)
    (Path(local.uri) / "sections/aliases/00000002.json").unlink()
    with pytest.raises(IntegrityError, match=r"00000002\.json: missing"):
        local.history("sections")
    (Path(local.uri) / "sections/aliases/00000003.json").write_text("{}")
    with pytest.raises(IntegrityError, match=r"00000003\.json"):
        local.aliases("sections")


def test_a_version_is_found_by_its_content(registry: Registry, artifact: Path) -> None:
    manifest = load_manifest(artifact)
    assert registry.find("sections", manifest) is None
    registry.register(artifact, "sections")
    newest = registry.register(artifact, "sections")
    retrained = manifest.model_copy(update={"lineage_id": "0" * 32, "metrics": {}, "config_hash": "other"})
    assert registry.find("sections", retrained) == newest
    assert registry.find("other", manifest) is None
    files = {**manifest.files, "adapter/adapter_config.json": manifest.files["config.yaml"]}
    assert registry.find("sections", manifest.model_copy(update={"files": files})) is None
    rebased = manifest.base_model.model_copy(update={"digest": "cd"})
    assert registry.find("sections", manifest.model_copy(update={"base_model": rebased})) is None


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_a_registry_that_can_not_be_written_is_found_out_early(tmp_path: Path, prefix: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"registry\.uri: .*can't be written"):
        Registry(f"{prefix}{tmp_path}/file/registry").check_writable()
    Registry(f"{prefix}{tmp_path}/new/registry").check_writable()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    with pytest.raises(ConfigError, match="nonsense"):
        Registry("nonsense://somewhere")
