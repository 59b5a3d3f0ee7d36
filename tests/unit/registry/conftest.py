"""A small artifact with its manifest."""

from __future__ import annotations

from pathlib import Path

import pytest

from luthier.manifest import BaseModelRef, write_manifest

SAFETENSORS = b"\x02\x00\x00\x00\x00\x00\x00\x00{}"


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    """An adapter, a tokenizer and a config, described by a manifest."""
    directory = tmp_path / "artifact"
    for name, data in {
        "adapter/adapter_model.safetensors": SAFETENSORS,
        "adapter/adapter_config.json": b"{}",
        "tokenizer/tokenizer.json": b"{}",
        "config.yaml": b"name: x\n",
    }.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(data)
    write_manifest(
        directory,
        name="sections",
        method="lora",
        base_model=BaseModelRef(model_name_or_path="smol", digest="ab"),
        config_hash="cd",
        data={},
        metrics={"eval_loss": 0.5},
    )
    return directory
