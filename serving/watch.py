"""Which names the endpoint answers to now: versions that are registered and aliases that are moved while it runs."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

from luthier.errors import IntegrityError
from luthier.registry import ModelVersion, Registry
from luthier.serving.adapters import DAMAGED, problem_of
from luthier.serving.canary import Breach
from luthier.serving.catalog import Catalog, names_of
from luthier.serving.names import Ability, Names, Split

ENDPOINT = "endpoint"
"""Who ended a canary, in the history."""

logger = logging.getLogger("ray.serve")


class Watch:
    """Looks into the registry. What never changes, a version and whether it can be served, is read once.

    Args:
        catalog: What was started; its names are served always.
        registry_uri: The registry.
        default_alias: Alias that a bare name stands for.
        created_s: When the endpoint was started, in seconds since 1970.
    """

    def __init__(self, catalog: Catalog, registry_uri: str, default_alias: str, created_s: int) -> None:
        self._registry = Registry(registry_uri, default_alias)
        self._default_alias = default_alias
        open_engines = [(one.model_id, one.source) for one in catalog.engines if one.source]
        self._sources = {source.base_digest: source for _, source in open_engines}
        self._engine_of_base = {source.base_digest: model_id for model_id, source in open_engines}
        self._held = catalog.engine_of
        bases = {one.model_id: one.model_id for one in catalog.engines if one.is_base}
        abilities = {one.model_id: Ability(one.task, one.serve.max_model_len) for one in catalog.engines}
        self._base = Names(bases, bases, abilities, created_s)
        self._versions: dict[str, ModelVersion] = {}
        self._problems: dict[str, str | None] = {}

    def look(self) -> Names:
        """The names as they stand.

        Raises:
            LuthierError: The registry can't be read; single versions that can't be are problems of theirs alone.
            OSError: Likewise.
        """
        served: list[ModelVersion] = []
        problems: dict[str, str] = {}
        splits: dict[str, Split] = {}
        for name in self._registry.names():
            standing = self._registry.standing(name)
            aliases = standing.aliases if standing else {}
            for alias, canary in (standing.canaries if standing else {}).items():
                split = Split(f"{name}@{canary.version}", f"{name}@{aliases[alias]}", canary.weight)
                asked = (f"{name}@{alias}", *([name] if alias == self._default_alias else []))
                splits |= dict.fromkeys(asked, split)
            for number in self._registry.numbers(name):
                ref = f"{name}@{number}"
                problem = self._problem(ref)
                if problem is None:
                    served.append(self._versions[ref].model_copy(update={"aliases": _at(aliases, number)}))
                else:
                    problems |= dict.fromkeys((ref, *(f"{name}@{alias}" for alias in _at(aliases, number))), problem)
        found = names_of(served, self._default_alias, self._held)
        engines = {version.ref: self._engine_of(version) for version in served}
        return replace(
            self._base,
            canonical={**found, **self._base.canonical},
            engine_of={**engines, **self._base.engine_of},
            problems=problems,
            splits={name: split for name, split in splits.items() if {split.canary, split.stable} <= engines.keys()},
            lineage={version.ref: version.manifest.lineage_id for version in served},
        )

    def end_canary(self, name: str, alias: str, breach: Breach) -> None:
        """Give an alias's requests back to its version, and record why.

        Raises:
            LuthierError: The registry can't be written, or someone was faster.
        """
        self._registry.end_canary(name, alias, ENDPOINT, breach.reason, breach.figures)

    def _problem(self, ref: str) -> str | None:
        """Why a version can't be served; None: it can."""
        if ref not in self._problems:
            try:
                self._versions[ref] = self._registry.resolve(ref)
                self._problems[ref] = self._why_not(ref)
            except IntegrityError as error:
                logger.error("%s can't be served: %s", ref, error)
                self._problems[ref] = DAMAGED
        return self._problems[ref]

    def _why_not(self, ref: str) -> str | None:
        if ref in self._held:
            return None
        version = self._versions[ref]
        source = self._sources.get(version.manifest.base_model.digest) or next(iter(self._sources.values()), None)
        if source is None:
            return "this endpoint was started for others; name it when the endpoint is started"
        return problem_of(self._registry, version, source)

    def _engine_of(self, version: ModelVersion) -> str:
        """The engine of a version that can be served: the one that holds it from the start, or that of its base."""
        return self._held.get(version.ref) or self._engine_of_base[version.manifest.base_model.digest]


def _at(aliases: Mapping[str, int], number: int) -> tuple[str, ...]:
    return tuple(sorted(alias for alias, version in aliases.items() if version == number))
