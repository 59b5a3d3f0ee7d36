"""What the cluster has and what of it is free, as its head tells."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luthier.cluster.capacity import alive_nodes, autoscaler_status, free_of
from luthier.cluster.queue.gang import Bundle
from luthier.cluster.queue.order import Cluster
from luthier.cluster.queue.teams import Policy

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient


def look(client: JobSubmissionClient, policy: Policy) -> Cluster:
    """Ask the head.

    Args:
        client: Of the head.
        policy: Says which nodes the autoscaler may add.

    Raises:
        ResourceError: The head does not tell.
    """
    nodes, status = alive_nodes(client), autoscaler_status(client)
    total = [dict(node["resources_total"]) for node in nodes]
    more = _may_be_added(total, policy)
    free = free_of(nodes, status)
    return Cluster(nodes=(*total, *more), free=None if free is None else (*free, *more))


def _may_be_added(nodes: list[Bundle], policy: Policy) -> tuple[Bundle, ...]:
    """Nodes of each kind that the autoscaler has not started yet."""
    more: list[Bundle] = []
    for kind in policy.grows_by:
        started = sum(all(node.get(key) == amount for key, amount in kind.resources.items()) for node in nodes)
        more += [dict(kind.resources)] * max(0, kind.count - started)
    return tuple(more)
