"""How many trials run at a time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

from luthier.config import RunConfig
from luthier.config.tune import TuneConfig
from luthier.errors import ResourceError
from luthier.tuning.data import trials_tokenise
from luthier.tuning.space import probe_values, sweep_of, trial_config
from luthier.tuning.trial import trial_demand


def max_concurrent(cfg: RunConfig, cluster_resources: Mapping[str, float]) -> int:
    """Trials at a time: what the config says, or as many of the largest trial as the cluster holds.

    Args:
        cfg: The run's config.
        cluster_resources: Resource name to amount in the whole cluster.

    Raises:
        ResourceError: The cluster can't hold even one trial.
    """
    tune = sweep_of(cfg)
    tokenises = trials_tokenise(tune)
    demands = [trial_demand(trial_config(cfg, p), tokenises=tokenises) for p in resource_choices(cfg)]
    slots = tune.num_trials
    for demand in demands:
        for key, amount in demand.items():
            have = cluster_resources.get(key, 0.0)
            if amount > have:
                raise ResourceError(
                    f"one trial needs {amount:g} {key}, the cluster has {have:g}; lower train.num_workers or "
                    "train.resources_per_worker in tune.overrides, or use a larger cluster."
                )
            if amount > 0:
                slots = min(slots, int(have // amount))
    slots *= tune.adapters_together or 1
    return min(tune.max_concurrent_trials or slots, tune.num_trials)


def num_groups(tune: TuneConfig, concurrent: int) -> int:
    """Copies of the base that so many trials at a time need, where several share one; 0 where none do."""
    return math.ceil(concurrent / tune.adapters_together) if tune.adapters_together else 0


def any_nested(cfg: RunConfig) -> bool:
    """Whether some trial has several workers, and so opens a worker group of its own."""
    return any(trial_config(cfg, params).train.max_workers > 1 for params in resource_choices(cfg))


def resource_choices(cfg: RunConfig) -> list[dict[str, Any]]:
    """The drawn values that change what a trial needs, in all combinations."""
    space = sweep_of(cfg).search_space
    probes = {
        path: probe_values(domain)
        for path, domain in space.items()
        if path == "train.num_workers" or path.startswith("train.resources_per_worker") or path == "train"
    }
    if math.prod(map(len, probes.values())) > 1000:
        return [{path: values[-1] for path, values in probes.items()}]
    return [dict(zip(probes, values, strict=True)) for values in itertools.product(*probes.values())]
