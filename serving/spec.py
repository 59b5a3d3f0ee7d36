"""What an engine's process is told to serve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from luthier.config.deploy import ServeConfig

Route = Literal["chat", "completions"]
"""What a request asks for: an answer to messages, or the continuation of a text."""


@dataclass(frozen=True)
class EngineSpec:
    """One engine: a model, and the adapters on it.

    Attributes:
        model_id: The model's name at the endpoint.
        model_dir: Directory of the weights.
        tokenizer_dir: Directory of tokenizer and chat template.
        adapters: Canonical name of each adapter to its directory.
        max_rank: Largest rank among the adapters; 0: there are none.
        serve: Limits and resources.
        gpu: Whether it reserves a GPU.
    """

    model_id: str
    model_dir: str
    tokenizer_dir: str
    adapters: dict[str, str]
    max_rank: int
    serve: ServeConfig
    gpu: bool

    @property
    def resources(self) -> dict[str, float]:
        """What one replica reserves."""
        return {"GPU": 1.0} if self.gpu else {"CPU": self.serve.num_cpus}
