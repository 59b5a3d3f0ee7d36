"""Whether bundles fit on nodes, each bundle on one node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from luthier.cluster.queue.gang import Bundle, added, size

_ROUNDING = 1e-6
"""Ray itself counts resources in ten-thousandths."""

Nodes = list[Bundle]


def place(bundles: Sequence[Mapping[str, float]], free: Sequence[Mapping[str, float]]) -> Nodes | None:
    """What is left free when all bundles have found a node; None where one finds none.

    The largest comes first and takes the fullest node that holds it, which keeps whole nodes for the next gang, as Ray
    does with its PACK strategy. This is best-fit decreasing: it may miss an arrangement, and never invents one.
    """
    left = [dict(node) for node in free]
    if not fits(added(bundles), added(left)):
        return None
    for bundle in sorted(bundles, key=size, reverse=True):
        if not _take(bundle, left):
            return None
    return left


def place_most(bundles: Sequence[Mapping[str, float]], free: Sequence[Mapping[str, float]]) -> Nodes:
    """What is left free when the bundles that find a node have it; the others' nodes are gone."""
    left = [dict(node) for node in free]
    for bundle in sorted(bundles, key=size, reverse=True):
        _take(bundle, left)
    return left


def set_aside(amounts: Mapping[str, float], nodes: Sequence[Mapping[str, float]]) -> Nodes:
    """Nodes without amounts that may be taken from several of them, from the first on."""
    left = [dict(node) for node in nodes]
    for key, amount in amounts.items():
        for node in left:
            taken = min(amount, node.get(key, 0.0))
            if taken > 0:
                node[key] -= taken
                amount -= taken
    return left


def fits(bundle: Mapping[str, float], node: Mapping[str, float]) -> bool:
    """Whether a node holds a bundle."""
    return all(amount <= node.get(key, 0.0) + _ROUNDING for key, amount in bundle.items())


def _take(bundle: Mapping[str, float], left: Nodes) -> bool:
    """Let the fullest node that holds the bundle give it."""
    able = [node for node in left if fits(bundle, node)]
    if not able:
        return False
    node = min(able, key=size)
    for key, amount in bundle.items():
        if amount:
            node[key] = max(0.0, node[key] - amount)
    return True
