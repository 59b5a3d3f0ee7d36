"""What a run asks of a cluster, compared with what there is before anything is scheduled.

Ray waits for ever on a request that no cluster can meet, so the comparison comes first.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

from luthier.config import RunConfig, apply_overrides
from luthier.errors import ResourceError


class Demand(BaseModel):
    """Resources that one stage holds at once."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    resources: dict[str, float]
    remedy: str


def demands(cfg: RunConfig) -> tuple[Demand, ...]:
    """What each stage holds while it runs; stages run one after another."""
    found = [_train_demand("train", cfg, "lower train.num_workers or train.resources_per_worker")]
    if cfg.tune is not None:
        trial = apply_overrides(cfg, cfg.tune.overrides)
        found.append(_train_demand("tune (one trial)", trial, "set a lower train.num_workers in tune.overrides"))
    served = {"CPU": cfg.serve.num_cpus * cfg.serve.num_replicas}
    found.append(Demand(stage="serve", resources=served, remedy="lower serve.num_replicas or serve.num_cpus"))
    return tuple(found)


def check_resources(cfg: RunConfig, cluster_resources: Mapping[str, float]) -> None:
    """Refuse a run that the cluster can never schedule.

    Args:
        cfg: The run's config.
        cluster_resources: Resource name to amount in the whole cluster (``ray.cluster_resources()``).

    Raises:
        ResourceError: Every shortage: the stage, what it asks, what there is and the remedy.
    """
    problems = shortages(cfg, cluster_resources)
    if problems:
        raise ResourceError("\n".join(problems))


def shortages(cfg: RunConfig, cluster_resources: Mapping[str, float]) -> tuple[str, ...]:
    """One sentence for each resource of which a stage asks more than the cluster has."""
    return tuple(
        f"{demand.stage} asks for {amount:g} {key}, the cluster has {cluster_resources.get(key, 0.0):g}; "
        f"{demand.remedy}, or use a larger cluster (cluster.address, cluster.num_cpus)."
        for demand in demands(cfg)
        for key, amount in demand.resources.items()
        if amount > cluster_resources.get(key, 0.0)
    )


def _train_demand(stage: str, cfg: RunConfig, remedy: str) -> Demand:
    per_worker = cfg.train.resources_per_worker
    total = {key: amount * cfg.train.num_workers for key, amount in per_worker.items() if amount > 0}
    return Demand(stage=stage, resources=total, remedy=remedy)
