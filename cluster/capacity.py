"""What the nodes of a running cluster have and have free, as its head tells over HTTP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from luthier.errors import ResourceError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

_NODES = "/api/v0/nodes?detail=1&limit=10000"
_STATUS = "/api/cluster_status"
"""Ray's autoscaler writes it every five seconds; it does so on a cluster of fixed size too."""


def alive_nodes(client: JobSubmissionClient) -> list[dict[str, Any]]:
    """The nodes as Ray's state API has them, ``node_id``, ``node_ip`` and ``resources_total`` among their keys.

    Raises:
        ResourceError: The head does not tell.
    """
    return [node for node in _ask(client, _NODES)["result"]["result"] if node["state"] == "ALIVE"]


def autoscaler_status(client: JobSubmissionClient) -> dict[str, Any]:
    """What the autoscaler, or what counts nodes in its place, told last.

    Raises:
        ResourceError: The head does not tell.
    """
    return _ask(client, _STATUS).get("clusterStatus") or {}


def free_of(nodes: Sequence[Mapping[str, Any]], status: Mapping[str, Any]) -> list[dict[str, float]] | None:
    """Each node's resources that nobody holds; None: nothing was counted yet.

    Names of custom resources are told in another spelling and count as free.
    """
    used = (status.get("loadMetricsReport") or {}).get("usageByNode")
    return [_free(node, used) for node in nodes] if used else None


def _free(node: Mapping[str, Any], used: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    mine = used.get(node["node_id"]) or used.get(node["node_ip"]) or {}
    total = node["resources_total"]
    return {key: max(0.0, amount - float(mine.get(key, (0.0,))[0])) for key, amount in total.items()}


def _ask(client: JobSubmissionClient, path: str) -> dict[str, Any]:
    reply = client._do_request("GET", path)
    if reply.status_code != 200:
        raise ResourceError(f"the head does not tell about the cluster ({path}: HTTP {reply.status_code}).")
    data: dict[str, Any] = reply.json()["data"]
    return data
