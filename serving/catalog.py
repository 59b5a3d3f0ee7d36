"""Which names the endpoint answers to, and which files stand behind each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.config import RunConfig
from luthier.errors import ServingError
from luthier.registry import ModelVersion, Registry
from luthier.serving.spec import EngineSpec

_RENDERING = ("tokenizer/tokenizer.json", "tokenizer/chat_template.jinja")
"""Files of an artifact that decide which tokens a conversation becomes."""


@dataclass(frozen=True)
class Catalog:
    """The served models.

    Attributes:
        engines: What each engine serves.
        names: Every name that a request may use, to the canonical one.
    """

    engines: tuple[EngineSpec, ...]
    names: dict[str, str]

    @property
    def engine_of(self) -> dict[str, str]:
        """Canonical name to the model id of the engine that serves it."""
        return {name: engine.model_id for engine in self.engines for name in (engine.model_id, *engine.adapters)}


def build_catalog(cfg: RunConfig, base_model_dir: Path, refs: Sequence[str], base_digest: str) -> Catalog:
    """Resolve references in the registry.

    Adapters share one engine with their base model, which is then served under its own name too, by the tokenizer and
    chat template that the adapters were trained with. A fully fine-tuned model has an engine of its own, and its base
    none, unless adapters need it or nothing else is served.

    Args:
        cfg: Names the base model and the registry.
        base_model_dir: The base model's files.
        refs: ``name``, ``name@N`` or ``name@alias`` of what to serve.
        base_digest: Digest of the base; an adapter of another base is refused.

    Raises:
        RegistryError: A reference does not exist.
        ServingError: An adapter was trained on another base, or with another chat template than an adapter beside it,
            or is of a kind that vLLM can't load; or a version is a classifier.
    """
    registry = Registry(cfg.registry.uri, cfg.registry.alias)
    gpu = cfg.train.use_gpu
    versions = {version.ref: version for version in map(registry.resolve, refs)}
    adapters: dict[str, str] = {}
    tokenizer_dir = str(base_model_dir)
    ranks = [0]
    engines: list[EngineSpec] = []
    for ref, version in versions.items():
        if version.manifest.objective == "classification":
            raise ServingError(
                f"{ref} is a classifier, which answers no chat requests; luthier export {ref} DIR writes it as a directory "
                "that AutoModelForSequenceClassification loads."
            )
        directory = registry.fetch(ref)
        if version.manifest.is_adapter:
            ranks.append(_checked_rank(version, directory / "adapter", base_digest, cfg))
            adapters[ref] = str(directory / "adapter")
            tokenizer_dir = str(directory / "tokenizer")
        else:
            engines.append(EngineSpec(ref, f"{directory}/model", f"{directory}/tokenizer", {}, 0, cfg.serve, gpu))
    _check_one_template([versions[ref] for ref in adapters])
    names = names_of(list(versions.values()), cfg.registry.alias)
    if adapters or not engines:
        base_id = base_name(cfg.model.model_name_or_path)
        if base_id in names:
            raise ServingError(f"the base model and a registered model are both named {base_id!r}; rename the latter.")
        names[base_id] = base_id
        spec = EngineSpec(base_id, str(base_model_dir), tokenizer_dir, adapters, max(ranks), cfg.serve, gpu)
        engines.insert(0, spec)
    return Catalog(tuple(engines), names)


def base_name(model_name_or_path: str) -> str:
    """The base model's name at the endpoint: the last part of its path, hub id or package."""
    return model_name_or_path.removeprefix("package:").rstrip("/").rpartition("/")[2]


def names_of(versions: Sequence[ModelVersion], default_alias: str) -> dict[str, str]:
    """Every name of the versions, to ``name@N``; a bare name is the default alias's version, else the newest served."""
    names: dict[str, str] = {}
    for version in sorted(versions, key=lambda one: (default_alias in one.aliases, one.version)):
        aliases = (f"{version.name}@{alias}" for alias in version.aliases)
        names |= dict.fromkeys((version.name, version.ref, *aliases), version.ref)
    return names


def _check_one_template(adapters: Sequence[ModelVersion]) -> None:
    """An engine renders every request by one tokenizer and chat template.

    Raises:
        ServingError: Two adapters were trained with different ones.
    """
    for version in adapters[1:]:
        for name in _RENDERING:
            if version.manifest.files.get(name) != adapters[0].manifest.files.get(name):
                raise ServingError(
                    f"{version.ref} and {adapters[0].ref} were trained with different files {name}, and one engine "
                    "renders the prompts of both; serve them from endpoints of their own."
                )


def _checked_rank(version: ModelVersion, adapter_dir: Path, base_digest: str, cfg: RunConfig) -> int:
    """The largest rank of an adapter that can be served.

    Raises:
        ServingError: It can't.
    """
    trained_on = version.manifest.base_model
    if trained_on.digest != base_digest:
        raise ServingError(
            f"{version.ref} was trained on {trained_on.model_name_or_path} with digest {trained_on.digest[:12]}, but the "
            f"served base {cfg.model.model_name_or_path} has {base_digest[:12]}; serve it with its own base."
        )
    settings = json.loads((adapter_dir / "adapter_config.json").read_text())
    problem = adapter_problem(settings, cfg.serve.max_lora_rank)
    if problem:
        raise ServingError(f"{version.ref} can't be served as an adapter: {problem}.")
    return largest_rank(settings)


def largest_rank(settings: dict[str, Any]) -> int:
    """The rank that an adapter's ``adapter_config.json`` tells, or the largest where layers differ."""
    ranks: list[int] = [settings["r"], *(settings.get("rank_pattern") or {}).values()]
    return max(ranks)


def adapter_problem(settings: dict[str, Any], max_lora_rank: int) -> str | None:
    """Why vLLM would not load an adapter; None where it would.

    Args:
        settings: The adapter's ``adapter_config.json``.
        max_lora_rank: Largest rank that may be served.
    """
    rank = largest_rank(settings)
    if rank > max_lora_rank:
        return f"its rank {rank} is above serve.max_lora_rank={max_lora_rank}; raise that"
    merge = "merge it into its base (luthier export --merge) and register the result as a full model"
    if settings.get("use_dora"):
        return f"vLLM does not serve DoRA (use_dora); {merge}"
    if settings.get("bias", "none") != "none" or settings.get("lora_bias"):
        return f"vLLM does not serve trained biases; {merge}"
    if settings.get("modules_to_save"):
        return f"vLLM does not serve modules_to_save={settings['modules_to_save']}; {merge}"
    return None
