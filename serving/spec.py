"""What an engine's process is told to serve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from luthier.config.serve import ServeConfig

Route = Literal["chat", "completions", "embeddings", "classify"]
"""What a request asks for: an answer to messages, the continuation of a text, vectors of texts, or their classes."""

PATHS: dict[Route, str] = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "embeddings": "/v1/embeddings",
    "classify": "/v1/classify",
}
"""Where it is asked for."""

Task = Literal["generate", "embed", "classify"]
"""What a model does, by vLLM's names."""

ROUTES: dict[Task, tuple[Route, ...]] = {
    "generate": ("chat", "completions"),
    "embed": ("embeddings",),
    "classify": ("classify",),
}
"""What a model of each task can be asked for."""


@dataclass(frozen=True)
class Base:
    """A base model that adapters can be served on.

    Attributes:
        model_name_or_path: As the config or a manifest names it.
        model_dir: Directory of weights and tokenizer.
        digest: Digest of the model, as manifests record it.
    """

    model_name_or_path: str
    model_dir: Path
    digest: str

    @property
    def name(self) -> str:
        """Its name at the endpoint."""
        return base_name(self.model_name_or_path)


def base_name(model_name_or_path: str) -> str:
    """A base model's name at the endpoint: the last part of its path, hub id or package."""
    return model_name_or_path.removeprefix("package:").rstrip("/").rpartition("/")[2]


@dataclass(frozen=True)
class AdapterSource:
    """Which registered adapters an engine can hold.

    Attributes:
        registry_uri: The registry.
        default_alias: Alias that a bare name stands for.
        base_name: The base model's name, for messages.
        base_digest: Digest of the base model, as manifests record it.
        rendering: Digests of the files that decide which tokens a conversation becomes, of the engine's own tokenizer.
        max_rank: Largest rank.
    """

    registry_uri: str
    default_alias: str
    base_name: str
    base_digest: str
    rendering: Mapping[str, str]
    max_rank: int


@dataclass(frozen=True)
class EngineSpec:
    """One engine: a model, and the adapters on it.

    Attributes:
        model_id: The model's name at the endpoint.
        model_dir: Directory of the weights.
        tokenizer_dir: Directory of tokenizer and chat template.
        adapters: Canonical name of each adapter that it holds from the start to the adapter's directory.
        max_rank: Largest rank of an adapter that it can hold; 0: it holds none.
        serve: Limits and resources.
        gpu: Whether it reserves a GPU.
        source: Where it finds adapters that are asked for later; None: it holds no others.
        task: What the model does.
        is_base: Whether the model itself is a base model; else it is a registered version.
    """

    model_id: str
    model_dir: str
    tokenizer_dir: str
    adapters: dict[str, str]
    max_rank: int
    serve: ServeConfig
    gpu: bool
    source: AdapterSource | None = None
    task: Task = "generate"
    is_base: bool = True

    @property
    def resources(self) -> dict[str, float]:
        """What one replica reserves."""
        return {"GPU": 1.0} if self.gpu else {"CPU": self.serve.num_cpus}
