"""What the cluster has and what of it is free, as its head tells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from luthier.cluster.queue.gang import Bundle
from luthier.cluster.queue.order import Cluster
from luthier.cluster.queue.teams import Policy
from luthier.errors import ResourceError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

_NODES = "/api/v0/nodes?detail=1&limit=10000"
_STATUS = "/api/cluster_status"
"""Ray's autoscaler writes it every five seconds; it does so on a cluster of fixed size too."""


def look(client: JobSubmissionClient, policy: Policy) -> Cluster:
    """Ask the head.

    Args:
        client: Of the head.
        policy: Says which nodes the autoscaler may add.

    Raises:
        ResourceError: The head does not tell.
    """
    listed = _ask(client, _NODES)["result"]["result"]
    nodes = {node["node_id"]: dict(node["resources_total"]) for node in listed if node["state"] == "ALIVE"}
    status = _ask(client, _STATUS).get("clusterStatus") or {}
    used = (status.get("loadMetricsReport") or {}).get("usageByNode") or {}
    more = _may_be_added(list(nodes.values()), policy)
    free = (*(_free(total, used.get(node, {})) for node, total in nodes.items()), *more) if used else None
    return Cluster(nodes=(*nodes.values(), *more), free=free)


def _ask(client: JobSubmissionClient, path: str) -> dict[str, Any]:
    reply = client._do_request("GET", path)
    if reply.status_code != 200:
        raise ResourceError(f"the head does not tell about the cluster ({path}: HTTP {reply.status_code}).")
    data: dict[str, Any] = reply.json()["data"]
    return data


def _free(total: Bundle, used: Mapping[str, Any]) -> Bundle:
    """A node's rest. Names of custom resources are told in another spelling and count as free."""
    return {key: max(0.0, amount - float(used.get(key, (0.0, 0.0))[0])) for key, amount in total.items()}


def _may_be_added(nodes: list[Bundle], policy: Policy) -> tuple[Bundle, ...]:
    """Nodes of each kind that the autoscaler has not started yet."""
    more: list[Bundle] = []
    for kind in policy.grows_by:
        started = sum(all(node.get(key) == amount for key, amount in kind.resources.items()) for node in nodes)
        more += [dict(kind.resources)] * max(0, kind.count - started)
    return tuple(more)
