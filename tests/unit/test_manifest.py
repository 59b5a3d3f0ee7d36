"""The manifest: what it takes in, what it refuses, what it notices."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from luthier.digests import (
    atomic_write_text,
    exclusive_write_bytes,
    sha256_bytes,
    sha256_file,
    sha256_files,
    sha256_json,
)
from luthier.errors import ConfigError, IntegrityError
from luthier.manifest import (
    BaseModelRef,
    DataFingerprint,
    Manifest,
    load_manifest,
    verify,
    write_manifest,
)

SAFETENSORS = b"\x02\x00\x00\x00\x00\x00\x00\x00{}"
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"


def make_artifact(directory: Path) -> Path:
    """A small artifact without its manifest."""
    for name, data in {
        "adapter/adapter_model.safetensors": SAFETENSORS,
        "adapter/adapter_config.json": b"{}",
        "tokenizer/tokenizer.json": b"{}",
        "tokenizer/chat_template.jinja": TEMPLATE.encode(),
        "config.yaml": b"name: x\n",
    }.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(data)
    return directory


def describe(directory: Path, **changes: Any) -> Manifest:
    """Write the manifest with plausible values."""
    values: dict[str, Any] = {
        "name": "sections",
        "method": "lora",
        "base_model": BaseModelRef(model_name_or_path="smol", digest="ab"),
        "config_hash": "cd",
        "data": {"train": [DataFingerprint(path="train.jsonl", rows=3, sha256="0" * 64)]},
        "metrics": {"eval_loss": 0.5},
    }
    return write_manifest(directory, **{**values, **changes})


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return make_artifact(tmp_path / "artifact")


def test_round_trip(artifact: Path) -> None:
    written = describe(artifact)
    loaded = load_manifest(artifact)
    assert loaded == written
    assert set(loaded.files) == {
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "config.yaml",
        "tokenizer/chat_template.jinja",
        "tokenizer/tokenizer.json",
    }
    assert loaded.files["config.yaml"].size_bytes == 8
    assert loaded.files["config.yaml"].sha256 == sha256_file(artifact / "config.yaml")
    assert loaded.chat_template_sha256 == sha256_bytes(TEMPLATE.encode())
    verify(artifact, loaded)


def test_chat_template_in_tokenizer_config_counts(artifact: Path) -> None:
    (artifact / "tokenizer/chat_template.jinja").unlink()
    assert describe(artifact).chat_template_sha256 is None
    (artifact / "tokenizer/tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    assert describe(artifact).chat_template_sha256 == sha256_bytes(TEMPLATE.encode())


def test_describing_again_leaves_the_manifest_itself_out(artifact: Path) -> None:
    first = describe(artifact)
    second = describe(artifact)
    assert first.files == second.files
    assert first.lineage_id != second.lineage_id


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("adapter/adapter_model.safetensors", lambda p: p.write_bytes(SAFETENSORS + b"x")),
        ("config.yaml", lambda p: p.write_bytes(b"name: y\n")),
        ("tokenizer/tokenizer.json", lambda p: p.unlink()),
    ],
)
def test_verify_names_the_damaged_file(artifact: Path, name: str, damage: Any) -> None:
    manifest = describe(artifact)
    damage(artifact / name)
    with pytest.raises(IntegrityError, match=name):
        verify(artifact, manifest)


@pytest.mark.parametrize("name", ["adapter/extra.safetensors", "tokenizer/deep/added.json", "model/config.json"])
def test_verify_refuses_an_unlisted_file_where_loaders_look(artifact: Path, name: str) -> None:
    manifest = describe(artifact)
    (artifact / "report.html").write_text("harmless")
    verify(artifact, manifest)
    (artifact / name).parent.mkdir(parents=True, exist_ok=True)
    (artifact / name).write_bytes(SAFETENSORS)
    with pytest.raises(IntegrityError, match=name):
        verify(artifact, manifest)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("adapter/adapter_model.bin", b"anything"),
        ("adapter/optimizer.pt", b"anything"),
        ("model/state.pkl", b"anything"),
        ("model/STATE.PTH", b"anything"),
        ("model/innocent.json", pickle.dumps({"a": 1})),
        ("model/innocent.dat", b"PK\x03\x04 torch archive"),
        ("model/model.safetensors", pickle.dumps({"a": 1})),
        ("model/model.safetensors", b""),
        ("model/model.safetensors", b"\xff\x00\x00\x00\x00\x00\x00\x00{}"),
    ],
)
def test_only_safetensors_weights(artifact: Path, name: str, data: bytes) -> None:
    (artifact / name).parent.mkdir(exist_ok=True)
    (artifact / name).write_bytes(data)
    with pytest.raises(IntegrityError, match=Path(name).name):
        describe(artifact)
    assert not (artifact / "manifest.json").exists()


def test_no_weights_is_refused(artifact: Path) -> None:
    (artifact / "adapter/adapter_model.safetensors").unlink()
    with pytest.raises(IntegrityError, match=r"no \.safetensors"):
        describe(artifact)


def test_links_are_refused(artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text("{}")
    (artifact / "adapter/linked.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(IntegrityError, match=r"linked\.json.*symbolic link"):
        describe(artifact)


def test_a_directory_swapped_for_a_link_is_noticed(artifact: Path, tmp_path: Path) -> None:
    manifest = describe(artifact)
    (artifact / "adapter").rename(tmp_path / "elsewhere")
    (artifact / "adapter").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IntegrityError, match="symbolic link"):
        verify(artifact, manifest)


@pytest.mark.parametrize(
    "name",
    [
        "../x.json",
        "/etc/passwd",
        "a/../../x",
        "a//b",
        "./a",
        ".",
        "",
        "a\\b",
        "C:/x",
        "a\nb",
        "manifest.json",
        "a/",
    ],
)
def test_names_that_leave_the_directory_are_refused(artifact: Path, name: str) -> None:
    describe(artifact)
    raw = json.loads((artifact / "manifest.json").read_text())
    raw["files"][name] = {"sha256": "0" * 64, "size_bytes": 1}
    (artifact / "manifest.json").write_text(json.dumps(raw))
    with pytest.raises(IntegrityError, match="file name"):
        load_manifest(artifact)


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("{", IntegrityError, "not valid JSON"),
        ("[]", IntegrityError, "list where an object"),
        ("{}", ConfigError, "schema_version is None"),
        ('{"schema_version": 2}', ConfigError, "schema_version is 2"),
        ('{"schema_version": 1, "surprise": 1}', IntegrityError, "Field required"),
        ("\udcff", IntegrityError, "not valid JSON"),
    ],
)
def test_bad_manifests_name_file_and_remedy(tmp_path: Path, text: str, error: type[Exception], words: str) -> None:
    (tmp_path / "manifest.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(error, match=rf"(?s)manifest\.json.*{words}.*(again|wrote it)"):
        load_manifest(tmp_path)


def test_missing_manifest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"manifest\.json: can't be read"):
        load_manifest(tmp_path)


def test_a_metric_that_is_nan_is_refused(artifact: Path) -> None:
    with pytest.raises(ConfigError, match="eval_loss"):
        describe(artifact, metrics={"eval_loss": float("nan")})
    assert not (artifact / "manifest.json").exists()


def test_a_lineage_id_from_outside_must_be_one(artifact: Path) -> None:
    with pytest.raises(ConfigError, match="lineage_id"):
        describe(artifact, lineage_id="../../etc")


def test_json_digest_ignores_key_order_and_refuses_nan() -> None:
    assert sha256_json({"a": 1, "b": [2]}) == sha256_json({"b": [2], "a": 1})
    assert sha256_json({"a": 1}) != sha256_json({"a": "1"})
    with pytest.raises(ValueError, match="not JSON compliant"):
        sha256_json({"a": float("inf")})


def test_digests_of_chosen_files(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"x" * (3 << 20))
    (tmp_path / "other").write_bytes(b"y")
    assert sha256_files(tmp_path, ["big"]) == {"big": sha256_bytes(b"x" * (3 << 20))}


def test_atomic_write_keeps_the_old_content_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "note.json"
    atomic_write_text(path, "old")

    def broken(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="No space"):
        atomic_write_text(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["note.json"]


def test_exclusive_write_never_replaces(tmp_path: Path) -> None:
    exclusive_write_bytes(tmp_path / "claim", b"first")
    with pytest.raises(FileExistsError):
        exclusive_write_bytes(tmp_path / "claim", b"second")
    assert (tmp_path / "claim").read_bytes() == b"first"
    assert [entry.name for entry in tmp_path.iterdir()] == ["claim"]
