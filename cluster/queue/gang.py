"""What a job holds at once: bundles of resources, each on one node, all or none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict

from luthier.cluster.resources import Demand, Stage, demands
from luthier.config import RunConfig

Bundle = dict[str, float]

ACCELERATOR, CPU = "GPU", "CPU"

_STAGES: dict[str, tuple[Stage, ...]] = {
    "run": ("train", "tune", "serve"),
    "train": ("train",),
    "tune": ("tune",),
    "evaluate": ("train",),  # which holds what training holds
}


class Gang(BaseModel):
    """What a job needs to be started."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    bundles: tuple[Bundle, ...]
    """What each worker reserves, on one node; covers each of the stages, which run one after another."""

    stages: tuple[Demand, ...] = ()
    """What each stage asks in all, with the remedy where that is too much."""

    @property
    def total(self) -> Bundle:
        """All bundles together."""
        return added(self.bundles)

    @property
    def kinds(self) -> frozenset[str]:
        """Names of the resources that it asks for."""
        return frozenset(key for key, amount in self.total.items() if amount > 0)

    @property
    def accelerators(self) -> float:
        """GPUs that it holds."""
        return self.total.get(ACCELERATOR, 0.0)

    @property
    def charged_cpus(self) -> float:
        """CPUs that count as its team's use: those of a job that asks for no GPU."""
        return 0.0 if self.accelerators else self.total.get(CPU, 0.0)

    def __str__(self) -> str:
        alike = Counter(told(bundle) for bundle in self.bundles)
        return " and ".join(f"{number} x ({one})" if number > 1 else one for one, number in alike.items()) or "nothing"


def gang_of(cfg: RunConfig, verb: str) -> Gang:
    """What a run holds at once, with the fewest workers that it goes on with.

    Args:
        cfg: The run's config.
        verb: ``run``, ``train``, ``tune`` or ``evaluate``.
    """
    wanted = [demand for demand in demands(cfg) if demand.stage.partition(" ")[0] in _STAGES[verb]]
    split = [[dict(demand.bundle)] * demand.num_bundles for demand in wanted]
    return Gang(bundles=covering(split), stages=tuple(wanted))


def covering(stages: Sequence[Sequence[Bundle]]) -> tuple[Bundle, ...]:
    """Bundles that hold each stage's, one to one: the largest of each stage, then the second, and so on."""
    ordered = [sorted(bundles, key=size, reverse=True) for bundles in stages]
    longest = max((len(bundles) for bundles in ordered), default=0)
    return tuple(_largest([bundles[place] for bundles in ordered if place < len(bundles)]) for place in range(longest))


def added(bundles: Sequence[Mapping[str, float]]) -> Bundle:
    """The sum."""
    total: Bundle = {}
    for bundle in bundles:
        for key, amount in bundle.items():
            total[key] = total.get(key, 0.0) + amount
    return total


def size(bundle: Mapping[str, float]) -> tuple[float, float, float]:
    """For an order by size: accelerators first."""
    return (bundle.get(ACCELERATOR, 0.0), bundle.get(CPU, 0.0), sum(bundle.values()))


def told(bundle: Mapping[str, float]) -> str:
    """In words: ``8 CPU, 1 GPU``."""
    return ", ".join(f"{amount:g} {key}" for key, amount in sorted(bundle.items()) if amount) or "nothing"


def _largest(bundles: Sequence[Bundle]) -> Bundle:
    return {key: max(bundle.get(key, 0.0) for bundle in bundles) for bundle in bundles for key in bundle}
