"""Which engines are started, and which names the endpoint answers to at first."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from luthier.config import RunConfig
from luthier.errors import IntegrityError, ServingError
from luthier.registry import ModelVersion, Registry
from luthier.serving.adapters import (
    CLASSIFIERS_ADAPTER,
    RENDERING,
    largest_rank,
    problem_of,
    rank_step,
    rendering_of,
    settings_of,
)
from luthier.serving.kinds import longest_text, require_classes, task_of
from luthier.serving.spec import AdapterSource, Base, EngineSpec


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


def build_catalog(cfg: RunConfig, bases: Sequence[Base], refs: Sequence[str]) -> Catalog:
    """Resolve references in the registry.

    Adapters share an engine with their base model, which is then served under its own name too, by the tokenizer and
    chat template that the adapters were trained with. A fully fine-tuned model has an engine of its own, and so have a
    classifier and a model that embeds. A base that no adapter needs has none, unless nothing else is served: then the
    first base is.

    Args:
        cfg: Names the registry and the limits.
        bases: Base models that adapters may be of; the first is the config's.
        refs: ``name``, ``name@N`` or ``name@alias`` of what to serve.

    Raises:
        RegistryError: A reference does not exist.
        ServingError: An adapter was trained on none of the bases, or with another chat template than an adapter beside
            it, or is of a kind that vLLM can't load; or a classifier tells other than one of several classes.
    """
    registry = Registry(cfg.registry.uri, cfg.registry.alias)
    listed = {version.ref: version for version in map(registry.resolve, refs)}
    whole = [version for version in listed.values() if not _is_adapter(version)]
    on_base: dict[str, list[ModelVersion]] = {base.digest: [] for base in bases}
    for version in listed.values():
        if version.manifest.is_adapter:
            # One of no base is told of by the first base's engine.
            on_base.get(version.manifest.base_model.digest, on_base[bases[0].digest]).append(version)
    needed = [base for base in bases if on_base[base.digest]] or ([] if whole else [bases[0]])
    names = names_of(list(listed.values()), cfg.registry.alias, listed)
    engines: list[EngineSpec] = []
    for base in needed:
        base_id = _base_id(base, names)
        names[base_id] = base_id
        engines.append(_base_engine(registry, cfg, base_id, base, on_base[base.digest]))
    return Catalog((*engines, *(_own_engine(registry, version, cfg) for version in whole)), names)


def _base_id(base: Base, taken: Mapping[str, str]) -> str:
    """A base's name at the endpoint; of two bases of one name, the second has a part of its digest in it.

    Raises:
        ServingError: A registered model has the name.
    """
    if taken.get(base.name, base.name) != base.name:
        raise ServingError(f"the base model and a registered model are both named {base.name!r}; rename the latter.")
    return f"{base.name}-{base.digest[:8]}" if base.name in taken else base.name


def _is_adapter(version: ModelVersion) -> bool:
    if version.manifest.is_adapter and version.manifest.objective == "classification":
        raise ServingError(f"{version.ref} can't be served: {CLASSIFIERS_ADAPTER}.")
    return version.manifest.is_adapter


def _own_engine(registry: Registry, version: ModelVersion, cfg: RunConfig) -> EngineSpec:
    directory = registry.fetch(version.ref)
    return _alone(version.ref, directory / "model", directory / "tokenizer", cfg, is_base=False)


def _alone(model_id: str, model_dir: Path, tokenizer_dir: Path, cfg: RunConfig, *, is_base: bool) -> EngineSpec:
    """The engine of a model without adapters.

    Raises:
        ServingError: It is a classifier of a kind that is not served.
    """
    task, serve = task_of(model_dir), cfg.serve
    if task == "classify":
        require_classes(model_dir, model_id)
    if task != "generate":
        longest = longest_text(model_dir, tokenizer_dir, serve.max_model_len)
        serve = serve.model_copy(update={"max_model_len": longest})
    return EngineSpec(
        model_id, str(model_dir), str(tokenizer_dir), {}, 0, serve, cfg.train.use_gpu, task=task, is_base=is_base
    )


def _base_engine(
    registry: Registry, cfg: RunConfig, base_id: str, base: Base, adapters: Sequence[ModelVersion]
) -> EngineSpec:
    """The engine of a base model: sized for the listed adapters and, where others may come, for the registered ones.

    Raises:
        ServingError: A listed adapter can't be served.
    """
    if not adapters and task_of(base.model_dir) != "generate":
        return _alone(base_id, base.model_dir, base.model_dir, cfg, is_base=True)
    later = cfg.serve.adapters == "registered"
    others = list(_of_base(registry, base.digest)) if later else []
    rendered_by = next(iter([*adapters, *reversed(others)]), None)
    source = AdapterSource(
        registry_uri=registry.location,
        default_alias=cfg.registry.alias,
        base_name=base.model_name_or_path,
        base_digest=base.digest,
        rendering=_rendering(rendered_by, base.model_dir),
        max_rank=cfg.serve.max_lora_rank,
    )
    for version in adapters:
        if problem := problem_of(registry, version, source):
            raise ServingError(f"{version.ref} can't be served as an adapter: {problem}.")
    servable = [version for version in others if _fits(registry, version, source)]
    ranks = [largest_rank(settings_of(registry, version)) for version in (*adapters, *servable)]
    rank = rank_step(max(ranks, default=1)) if adapters or later else 0
    return EngineSpec(
        model_id=base_id,
        model_dir=str(base.model_dir),
        tokenizer_dir=str(registry.fetch(rendered_by.ref) / "tokenizer") if rendered_by else str(base.model_dir),
        adapters={version.ref: str(registry.fetch(version.ref) / "adapter") for version in adapters},
        max_rank=rank,
        serve=cfg.serve,
        gpu=cfg.train.use_gpu,
        source=replace(source, max_rank=rank) if later else None,
    )


def _of_base(registry: Registry, base_digest: str) -> Iterator[ModelVersion]:
    """Registered adapters of a base; a version that can't be read harms none but itself."""
    for name in registry.names():
        for number in registry.numbers(name):
            try:
                version = registry.resolve(f"{name}@{number}")
            except IntegrityError:
                continue
            manifest = version.manifest
            if (
                manifest.is_adapter
                and manifest.base_model.digest == base_digest
                and manifest.objective != "classification"
            ):
                yield version


def _fits(registry: Registry, version: ModelVersion, source: AdapterSource) -> bool:
    try:
        return problem_of(registry, version, source) is None
    except IntegrityError:
        return False


def _rendering(version: ModelVersion | None, base_model_dir: Path) -> dict[str, str]:
    if version is None:
        return rendering_of(base_model_dir)
    files = version.manifest.files
    return {name: files[name].sha256 for name in RENDERING if name in files}


def names_of(versions: Sequence[ModelVersion], default_alias: str, listed: Collection[str]) -> dict[str, str]:
    """Every name of the versions, to ``name@N``. A bare name is the default alias's version, else the newest that is
    listed: a version that was only registered, and that no gate has passed, is never picked by chance.

    Args:
        versions: What can be served.
        default_alias: Alias that a bare name stands for.
        listed: References of the versions that were named when the endpoint was started.
    """
    names: dict[str, str] = {}
    for version in sorted(versions, key=lambda one: (default_alias in one.aliases, one.version)):
        names |= dict.fromkeys((version.ref, *(f"{version.name}@{alias}" for alias in version.aliases)), version.ref)
        if default_alias in version.aliases or version.ref in listed:
            names[version.name] = version.ref
    return names
