"""What a running cluster tells of itself: over its dashboard, or as a member of it."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Mapping
from typing import Any

from luthier.cluster.planning.supply import NodeKind, Supply
from luthier.config import RunConfig

TIMEOUT_S = 10.0
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
    from ray.util.state import list_nodes

    from luthier.cluster.jobs import connect

    connect(url)  # names what is wrong within seconds
    alive = list_nodes(address=url, filters=[("state", "=", "ALIVE")], detail=True)
    nodes = tuple(_planned_with(node.resources_total) for node in alive)
    status = _status(url)
    used = status.get("loadMetricsReport", {}).get("usageByNode")
    free = None if used is None else tuple(_left(node, used) for node in alive)
    return Supply(nodes=nodes, free=free, kinds=_growth(status.get("autoscalerReport", {}).get("activeNodes")))


def _left(node: Any, used: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """A node's resources without those in use."""
    mine = used.get(node.node_id) or used.get(node.node_ip) or {}
    total = _planned_with(node.resources_total)
    return {key: amount - float(mine.get(key, (0.0,))[0]) for key, amount in total.items()}


def _status(url: str) -> dict[str, Any]:
    """What the autoscaler, or what counts nodes in its place, told last; empty: nothing."""
    from ray._private.authentication.http_token_authentication import get_auth_headers_if_auth_enabled

    request = urllib.request.Request(f"{url.rstrip('/')}/api/cluster_status")
    for key, value in get_auth_headers_if_auth_enabled({}).items():
        request.add_header(key, value)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            return dict(json.load(answer)["data"]["clusterStatus"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _planned_with(resources: Mapping[str, float]) -> dict[str, float]:
    return {key: float(amount) for key, amount in resources.items() if not key.startswith(_IMPLICIT)}
