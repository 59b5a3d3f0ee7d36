"""Jobs that no state of the cluster could ever hold, told before they wait for ever."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from luthier.cluster.queue.gang import Gang, added
from luthier.cluster.queue.placement import place
from luthier.cluster.resources import unmet


def problems(gang: Gang, nodes: Sequence[Mapping[str, float]]) -> tuple[str, ...]:
    """Why nodes can never hold a gang, a sentence each; none where they can when nothing else runs."""
    total = added(nodes)
    if found := unmet(gang.stages, total) or _too_much(gang, total):
        return found
    if place(gang.bundles, nodes) is None:
        return (
            f"the job asks for {gang}, each worker on one node, which the {len(nodes)} nodes can't hold at once, though "
            "they have enough in all; ask for smaller or fewer workers (train.resources_per_worker, train.num_workers).",
        )
    return ()


def _too_much(gang: Gang, total: Mapping[str, float]) -> tuple[str, ...]:
    return tuple(
        f"the job asks for {amount:g} {key}, the cluster has {total.get(key, 0.0):g}; ask for less, or use a larger cluster."
        for key, amount in gang.total.items()
        if amount > total.get(key, 0.0)
    )
