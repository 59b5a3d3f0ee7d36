"""The endpoint built by Ray Serve from a file of its own, as a RayService does it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from luthier.cluster.recipes.render import make_recipe, render
from luthier.config import dump_yaml, load_config
from luthier.errors import ConfigError
from luthier.ports import free_port
from luthier.registry import Registry
from luthier.service import build
from luthier.trainers.base_model import base_digest
from tests.integration.serving.conftest import CHAT, KEY, ROOT, described, trained_adapter

_START_TIMEOUT_S = 240.0


def recipe_config(**changed: str) -> dict[str, Any]:
    """What the recipe's ``serveConfigV2`` holds."""
    manifest = yaml.safe_load(render(make_recipe([f"{key}={value}" for key, value in changed.items()]), "rayservice"))
    found: dict[str, Any] = yaml.safe_load(manifest["spec"]["serveConfigV2"])
    return found


@pytest.mark.slow
def test_ray_serve_builds_the_endpoint_from_the_recipes_file(
    ray_session: Any, base_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray import serve
    from ray.serve.schema import ServeDeploySchema

    port = free_port()
    artifact = described(trained_adapter(tmp_path / "artifact", base_model_dir), base_digest(base_model_dir))
    Registry(str(tmp_path / "registry"), "champion").register(artifact, "demo")
    cfg = load_config(
        ROOT / "configs" / "quickstart.yaml", [f"registry.uri={tmp_path / 'registry'}", "serve.max_model_len=128"]
    )
    (tmp_path / "run.yaml").write_text(dump_yaml(cfg))
    wanted = recipe_config(
        **{"shared.mount": str(tmp_path), "config": str(tmp_path / "run.yaml"), "serve_port": str(port)},
        models="[demo@1]",
    )
    ServeDeploySchema.model_validate(wanted)  # Ray's own check of the file
    (application,) = wanted["applications"]
    monkeypatch.setenv("LUTHIER_API_KEY", KEY)
    serve.start(http_options={**wanted["http_options"], "host": "127.0.0.1"})
    try:
        # As `build_serve_application` does on a cluster, but in a process that has the key.
        bound = build(json.loads(json.dumps(application["args"])))
        serve.run(bound, name=application["name"], route_prefix=application["route_prefix"], blocking=False)
        asked = {"model": "demo@1", "messages": CHAT, "max_tokens": 4}
        deadline = time.monotonic() + _START_TIMEOUT_S
        url, key = f"http://127.0.0.1:{port}/v1/chat/completions", {"authorization": f"Bearer {KEY}"}
        while (reply := httpx.post(url, json=asked, headers=key, timeout=120)).status_code != 200:
            assert time.monotonic() < deadline, reply.text
            time.sleep(1)
        assert reply.json()["choices"][0]["message"]["content"]
        assert httpx.post(url, json=asked, timeout=30).status_code == 401
        service = {**key, "host": f"luthier-serve-svc.luthier.svc.cluster.local:{port}"}
        assert httpx.post(url, json=asked, headers=service, timeout=120).status_code == 200
        assert httpx.post(url, json=asked, headers={**key, "host": "evil.example.com"}, timeout=30).status_code in (
            400,
            403,
            421,
        )
    finally:
        serve.shutdown()


@pytest.mark.parametrize("args", [{}, {"config": "x.yaml", "model": ["a"]}])
def test_wrong_arguments_are_told(args: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"args\.(config|model): "):
        build(args)
