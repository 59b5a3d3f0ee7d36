"""Which registered adapters an engine can hold, and why not the others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from luthier.digests import sha256_bytes
from luthier.registry import ModelVersion, Registry
from luthier.serving.spec import AdapterSource

ADAPTER_SETTINGS = "adapter/adapter_config.json"

RENDERING = ("tokenizer/tokenizer.json", "tokenizer/chat_template.jinja")
"""Files of an artifact that decide which tokens a conversation becomes."""

DAMAGED = "its files are damaged; the server's log tells which"
"""Why a version can't be served whose files are not those of its manifest."""

CLASSIFIERS_ADAPTER = (
    "it is an adapter of a classifier, which knows no labels; merge it into its base and register the whole model"
)
"""Why such a version can't be served; luthier itself registers classifiers whole."""

_SMALLEST_RANK = 8


def rendering_of(directory: Path) -> dict[str, str]:
    """Digests of the files of a tokenizer's directory that decide which tokens a conversation becomes."""
    places = {name: directory / Path(name).name for name in RENDERING}
    return {name: sha256_bytes(place.read_bytes()) for name, place in places.items() if place.is_file()}


def problem_of(registry: Registry, version: ModelVersion, source: AdapterSource) -> str | None:
    """Why a version can't be served as an adapter of an engine; None where it can.

    Raises:
        IntegrityError: Its settings are missing or were changed.
    """
    trained_on = version.manifest.base_model
    if not version.manifest.is_adapter:
        return "it is a whole model, which needs an engine of its own: name it when the endpoint is started"
    if version.manifest.objective == "classification":
        return CLASSIFIERS_ADAPTER
    if trained_on.digest != source.base_digest:
        return (
            f"it was trained on {trained_on.model_name_or_path} with digest {trained_on.digest[:12]}, but the served base "
            f"{source.base_name} has {source.base_digest[:12]}; name it when the endpoint is started, with its own base"
        )
    for name in RENDERING:
        digest = version.manifest.files.get(name)
        if (digest.sha256 if digest else None) != source.rendering.get(name):
            return (
                f"it was trained with another file {name} than the engine renders prompts by; serve it from an endpoint "
                "of its own"
            )
    return adapter_problem(settings_of(registry, version), source.max_rank)


def settings_of(registry: Registry, version: ModelVersion) -> dict[str, Any]:
    """An adapter's ``adapter_config.json``.

    Raises:
        IntegrityError: It is missing or was changed.
    """
    settings: dict[str, Any] = json.loads(registry.read(version, ADAPTER_SETTINGS))
    return settings


def adapter_problem(settings: Mapping[str, Any], max_rank: int) -> str | None:
    """Why vLLM would not load an adapter; None where it would.

    Args:
        settings: The adapter's ``adapter_config.json``.
        max_rank: Largest rank that may be served.
    """
    rank = largest_rank(settings)
    if rank > max_rank:
        return f"its rank {rank} is above the largest that the engine holds, {max_rank}; raise serve.max_lora_rank"
    merge = "merge it into its base (luthier export --merge) and add the result as a whole model (luthier models add)"
    if settings.get("use_dora"):
        return f"vLLM does not serve DoRA (use_dora); {merge}"
    if settings.get("bias", "none") != "none" or settings.get("lora_bias"):
        return f"vLLM does not serve trained biases; {merge}"
    if settings.get("modules_to_save"):
        return f"vLLM does not serve modules_to_save={settings['modules_to_save']}; {merge}"
    return None


def largest_rank(settings: Mapping[str, Any]) -> int:
    """The rank that an adapter's ``adapter_config.json`` tells, or the largest where layers differ."""
    ranks: list[int] = [settings.get("r", _SMALLEST_RANK), *(settings.get("rank_pattern") or {}).values()]
    return max(ranks)


def rank_step(rank: int) -> int:
    """The smallest rank that vLLM's kernels are built for and that holds ``rank``."""
    return min(step for step in (8, 16, 32, 64, 128, 256, 320, 512) if step >= rank)
