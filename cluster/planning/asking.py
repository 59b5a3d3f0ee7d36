"""What a running cluster tells of itself: over its dashboard, or as a member of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from luthier.cluster.capacity import alive_nodes, autoscaler_status, free_of
from luthier.cluster.planning.supply import NodeKind, Supply
from luthier.config import RunConfig
from luthier.errors import ResourceError

_IMPLICIT = ("node:", "object_store_memory")
"""Resources that Ray adds by itself and nobody plans with."""


def ask_supply(cfg: RunConfig, address: str) -> Supply:
    """What a running cluster has, has free and can grow to.

    Args:
        cfg: Supplies the environment.
        address: Of the job server (``http://HEAD:8265``), which does not tell what an autoscaler may start, or of the
            cluster itself (``HEAD:6379``).

    Raises:
        ResourceError: Nothing answers there.
    """
    if address.startswith(("http://", "https://")):
        return _ask_dashboard(address)
    from luthier.cluster.session import start

    named = cfg.model_copy(update={"cluster": cfg.cluster.model_copy(update={"address": address})})
    with start(named):
        return _ask_as_member()


def _ask_as_member() -> Supply:
    import ray
    from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
    from ray._private.state import available_resources_per_node
    from ray._private.state import state as ray_state
    from ray.experimental.internal_kv import _internal_kv_get

    free = available_resources_per_node()
    alive = [node for node in ray.nodes() if node["Alive"]]
    reported = ray_state.get_cluster_config()
    status = json.loads(_internal_kv_get(DEBUG_AUTOSCALING_STATUS) or "{}")
    types = status.get("autoscaler_report", {}).get("active_nodes")
    return Supply(
        nodes=tuple(_planned_with(node["Resources"]) for node in alive),
        free=tuple(_planned_with(free.get(node["NodeID"], {})) for node in alive),
        kinds=_growth(types) if reported is None else _kinds(reported),
    )


def _kinds(config: Any) -> tuple[NodeKind, ...]:
    """Node groups, where whoever runs the cluster has reported them; Ray's own autoscalers do not."""
    return tuple(
        NodeKind(
            name=group.name,
            resources=_planned_with(group.resources),
            max_nodes=None if group.max_count == -1 else group.max_count,
        )
        for group in config.node_group_configs
    )


def _growth(active_types: Any) -> tuple[NodeKind, ...] | None:
    """None of them, where no autoscaler was configured: Ray then only counts nodes, and gives each a type of its own."""
    if isinstance(active_types, dict) and active_types and all(name.startswith("node_") for name in active_types):
        return ()
    return None


def _ask_dashboard(url: str) -> Supply:
    from luthier.cluster.jobs import connect

    client = connect(url)
    nodes = alive_nodes(client)
    try:
        status = autoscaler_status(client)
    except ResourceError:  # what is free is not known then
        status = {}
    free = free_of(nodes, status)
    return Supply(
        nodes=tuple(_planned_with(node["resources_total"]) for node in nodes),
        free=None if free is None else tuple(map(_planned_with, free)),
        kinds=_growth((status.get("autoscalerReport") or {}).get("activeNodes")),
    )


def _planned_with(resources: Mapping[str, float]) -> dict[str, float]:
    return {key: float(amount) for key, amount in resources.items() if not key.startswith(_IMPLICIT)}
