"""What a run asks of a cluster, compared with what there is before anything is scheduled.

Ray waits for ever on a request that no cluster can meet, so the comparison comes first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from luthier.config import RunConfig, apply_overrides
from luthier.errors import ResourceError

Stage = Literal["train", "tune", "serve"]
STAGES: tuple[Stage, ...] = ("train", "tune", "serve")


class Demand(BaseModel):
    """Resources that one stage holds at once: equal bundles, each on one node."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    bundle: dict[str, float]
    num_bundles: int
    remedy: str

    @property
    def resources(self) -> dict[str, float]:
        """Of all bundles together."""
        return {key: amount * self.num_bundles for key, amount in self.bundle.items()}


def demands(cfg: RunConfig) -> tuple[Demand, ...]:
    """What each stage holds while it runs; stages run one after another."""
    found = [_train_demand("train", cfg, "lower train.num_workers or train.resources_per_worker")]
    if cfg.tune is not None:
        trial = apply_overrides(cfg, cfg.tune.overrides)
        found.append(_train_demand("tune (one trial)", trial, "set a lower train.num_workers in tune.overrides"))
    if not cfg.train.is_served:  # nothing is served at the end of such a run
        return tuple(found)
    # An engine on a GPU reserves that and nothing else.
    one = {"GPU": 1.0} if cfg.train.use_gpu else {"CPU": cfg.serve.num_cpus}
    remedy = "lower serve.num_replicas or serve.num_cpus"
    found.append(Demand(stage="serve", bundle=one, num_bundles=cfg.serve.first_replicas, remedy=remedy))
    return tuple(found)


def check_resources(cfg: RunConfig, cluster_resources: Mapping[str, float], stages: tuple[Stage, ...] = STAGES) -> None:
    """Refuse a run that the cluster can never schedule.

    Args:
        cfg: The run's config.
        cluster_resources: Resource name to amount in the whole cluster (``ray.cluster_resources()``).
        stages: Those that will run. The evaluation holds what training holds.

    Raises:
        ResourceError: Every shortage: the stage, what it asks, what there is and the remedy.
    """
    problems = shortages(cfg, cluster_resources, stages)
    if problems:
        raise ResourceError("\n".join(problems))


def shortages(
    cfg: RunConfig, cluster_resources: Mapping[str, float], stages: tuple[Stage, ...] = STAGES
) -> tuple[str, ...]:
    """One sentence for each resource of which a stage asks more than the cluster has."""
    return unmet([demand for demand in demands(cfg) if demand.stage.partition(" ")[0] in stages], cluster_resources)


def unmet(asked: Sequence[Demand], cluster_resources: Mapping[str, float]) -> tuple[str, ...]:
    """One sentence for each resource of which a demand asks more than the cluster has."""
    return tuple(
        f"{demand.stage} asks for {amount:g} {key}, the cluster has {cluster_resources.get(key, 0.0):g}; "
        f"{demand.remedy}, or use a larger cluster (cluster.address, cluster.num_cpus)."
        for demand in asked
        for key, amount in demand.resources.items()
        if amount > cluster_resources.get(key, 0.0)
    )


def _train_demand(stage: str, cfg: RunConfig, remedy: str) -> Demand:
    workers = cfg.train.min_workers
    return Demand(stage=stage, bundle=cfg.train.reserved_per_worker, num_bundles=workers, remedy=remedy)
