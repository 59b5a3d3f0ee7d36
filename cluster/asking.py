"""What a running cluster tells of itself: over its dashboard, or as a member of it."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Mapping
from typing import Any

from luthier.cluster.supply import NodeKind, Supply
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
    from ray._private.state import available_resources_per_node
    from ray._private.state import state as ray_state

    free = available_resources_per_node()
    alive = [node for node in ray.nodes() if node["Alive"]]
    return Supply(
        nodes=tuple(_planned_with(node["Resources"]) for node in alive),
        free=tuple(_planned_with(free.get(node["NodeID"], {})) for node in alive),
        kinds=_kinds(ray_state.get_cluster_config()),
    )


def _kinds(config: Any) -> tuple[NodeKind, ...]:
    """Node groups as the autoscaler has reported them; none where there is no autoscaler."""
    groups = config.node_group_configs if config is not None else ()
    return tuple(
        NodeKind(
            name=group.name,
            resources=_planned_with(group.resources),
            max_nodes=None if group.max_count == -1 else group.max_count,
        )
        for group in groups
    )


def _ask_dashboard(url: str) -> Supply:
    from ray.util.state import list_nodes

    from luthier.cluster.submit import connect

    connect(url)  # names what is wrong within seconds
    alive = list_nodes(address=url, filters=[("state", "=", "ALIVE")], detail=True)
    nodes = tuple(_planned_with(node.resources_total) for node in alive)
    used = _used_by_node(url)
    free = None if used is None else tuple(_left(node, used) for node in alive)
    return Supply(nodes=nodes, free=free)


def _left(node: Any, used: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """A node's resources without those in use."""
    mine = used.get(node.node_id) or used.get(node.node_ip) or {}
    total = _planned_with(node.resources_total)
    return {key: amount - float(mine.get(key, (0.0,))[0]) for key, amount in total.items()}


def _used_by_node(url: str) -> dict[str, dict[str, Any]] | None:
    """By node, resource name to (used, total), as the autoscaler last counted them; None: it tells nothing."""
    from ray._private.authentication.http_token_authentication import get_auth_headers_if_auth_enabled

    request = urllib.request.Request(f"{url.rstrip('/')}/api/cluster_status")
    for key, value in get_auth_headers_if_auth_enabled({}).items():
        request.add_header(key, value)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            status = json.load(answer)["data"]["clusterStatus"]
        return dict(status["loadMetricsReport"]["usageByNode"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _planned_with(resources: Mapping[str, float]) -> dict[str, float]:
    return {key: float(amount) for key, amount in resources.items() if not key.startswith(_IMPLICIT)}
