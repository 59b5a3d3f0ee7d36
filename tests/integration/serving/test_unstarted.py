"""What is refused before an endpoint starts."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from luthier.config import RunConfig
from luthier.errors import ConfigError, ResourceError
from luthier.serving import deploy
from luthier.serving.room import require_room
from luthier.serving.spec import EngineSpec
from tests.integration.serving.conftest import KEY


def test_without_a_key_nothing_starts(
    ray_session: Any, quickstart: RunConfig, base_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(quickstart.serve.api_key_env, raising=False)
    with pytest.raises(ConfigError, match="LUTHIER_API_KEY"):
        deploy(quickstart, base_model_dir=base_model_dir, refs=[], base_digest="d")


def test_a_file_of_keys_that_is_not_there_is_refused_before_anything_starts(
    ray_session: Any, quickstart: RunConfig, base_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(quickstart.serve.api_key_env, KEY)
    serve = quickstart.serve.model_copy(update={"keys_file": str(tmp_path / "none.json")})
    with pytest.raises(ConfigError, match=r"serve.keys_file: .*none.json: No such file.* luthier keys add"):
        deploy(quickstart.model_copy(update={"serve": serve}), base_model_dir=base_model_dir, refs=[], base_digest="d")


def test_a_taken_port_is_refused_before_anything_starts(
    ray_session: Any, quickstart: RunConfig, base_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(quickstart.serve.api_key_env, KEY)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        serve = quickstart.serve.model_copy(update={"port": listener.getsockname()[1]})
        with pytest.raises(ConfigError, match="can't be listened on"):
            cfg = quickstart.model_copy(update={"serve": serve})
            deploy(cfg, base_model_dir=base_model_dir, refs=[], base_digest="d")


def test_more_engines_than_the_cluster_holds_are_refused(ray_session: Any, quickstart: RunConfig) -> None:
    engine = EngineSpec("one", "/one", "/one", {}, 0, quickstart.serve, gpu=False)
    require_room([engine])
    with pytest.raises(ResourceError, match=r"asks for 3 CPU \(3 engines: .* the cluster has 2; serve fewer models"):
        require_room([engine] * 3)
