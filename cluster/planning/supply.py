"""What a cluster has, has free and can grow to, and whether a gang of equal bundles fits in: now, later or never.

A gang's bundles each need one node, so nodes count and not sums: two nodes with one GPU each hold no bundle of two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from luthier.cluster.resources import Demand
from luthier.errors import ConfigError

When = Literal["now", "after autoscaling", "never", "unknown"]
Node = Mapping[str, float]


class NodeKind(BaseModel):
    """A kind of node that an autoscaler may start."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    resources: dict[str, float]
    max_nodes: int | None
    """None: as many as wanted."""


class Supply(BaseModel):
    """A cluster's nodes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    nodes: tuple[dict[str, float], ...]
    """What each node has."""

    free: tuple[dict[str, float], ...] | None = None
    """What of it nobody holds; None: unknown."""

    kinds: tuple[NodeKind, ...] | None = None
    """What an autoscaler may add; empty: it does not grow; None: unknown."""

    max_workers: int | None = None
    """Nodes that may be added in all, whatever their kind; None: no limit."""

    def resources(self) -> dict[str, float]:
        """Sums over the nodes."""
        total: dict[str, float] = {}
        for node in self.nodes:
            for key, amount in node.items():
                total[key] = total.get(key, 0.0) + amount
        return total


class Verdict(BaseModel):
    """Whether a cluster can hold a stage."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    when: When
    reason: str


def judge(demand: Demand, supply: Supply) -> Verdict:
    """When a stage's gang can be placed."""
    bundle, number = demand.bundle, demand.num_bundles
    what = f"{number} x ({', '.join(f'{amount:g} {key}' for key, amount in bundle.items())})"
    if supply.free is not None and placed(bundle, number, supply.free) >= number:
        return Verdict(stage=demand.stage, when="now", reason=f"{what} fit into what is free")
    held = placed(bundle, number, supply.nodes)
    if held >= number:
        if supply.free is None:
            return Verdict(stage=demand.stage, when="unknown", reason=f"{what} fit if nobody else holds the nodes")
        grown = _grown(bundle, number, supply.free, supply)
        if grown:
            return Verdict(stage=demand.stage, when="after autoscaling", reason=f"{what} fit with {grown}")
        return Verdict(
            stage=demand.stage, when="unknown", reason=f"{what} fit once others have ended: the nodes are in use"
        )
    if supply.kinds is None:
        return Verdict(
            stage=demand.stage,
            when="unknown",
            reason=f"{held} of {what} fit now; give --cluster-config to tell how it can grow",
        )
    grown = _grown(bundle, number, supply.nodes, supply)
    if grown:
        return Verdict(stage=demand.stage, when="after autoscaling", reason=f"{what} fit with {grown}")
    most = held + sum(_most(bundle, kind, number) for kind in supply.kinds)
    reason = f"at most {min(most, number - 1)} of {what} fit, even with all nodes it may start; {demand.remedy}"
    return Verdict(stage=demand.stage, when="never", reason=reason)


def placed(bundle: Node, number: int, nodes: Iterable[Node]) -> int:
    """How many of equal bundles the nodes hold, at most ``number``."""
    return min(number, sum(min(number, _in_one(bundle, node)) for node in nodes))


def read_cluster_config(path: Path) -> Supply:
    """What Ray's autoscaler may start by a YAML file, from nothing.

    Raises:
        ConfigError: The file can't be read or names no node types.
    """
    import yaml

    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"--cluster-config {path}: {error}; give the YAML of ray up.") from error
    types = raw.get("available_node_types") if isinstance(raw, dict) else None
    if not isinstance(types, dict) or not types:
        raise ConfigError(f"--cluster-config {path}: there is no available_node_types; give the YAML of ray up.")
    head = raw.get("head_node_type")
    limit = int(raw.get("max_workers", 2))  # Ray's default
    kinds = tuple(
        NodeKind(name=name, resources=_amounts(one), max_nodes=int(one.get("max_workers", limit)))
        for name, one in types.items()
        if isinstance(one, dict)
    )
    empty = [kind.name for kind in kinds if not kind.resources]
    if empty:
        raise ConfigError(
            f"--cluster-config {path}: node type(s) {', '.join(empty)} name no resources, which Ray would ask the cloud "
            "for; add resources: {CPU: ..., GPU: ...} to each."
        )
    nodes = tuple(kind.resources for kind in kinds if kind.name == head)
    return Supply(nodes=nodes, kinds=kinds, max_workers=limit)


def combined(asked: Supply | None, cluster_config: Path | None) -> Supply | None:
    """What a cluster has, as it told itself, and may grow to by a file; None where neither is given.

    Raises:
        ConfigError: The file is none of Ray's autoscaler.
    """
    if cluster_config is None:
        return asked
    planned = read_cluster_config(cluster_config)
    if asked is None:
        return planned
    # Nodes that are there count against the limits; which kind each is, Ray does not tell.
    return asked.model_copy(update={"kinds": planned.kinds, "max_workers": _left_of(planned, len(asked.nodes) - 1)})


def _left_of(planned: Supply, workers: int) -> int | None:
    return None if planned.max_workers is None else max(0, planned.max_workers - max(0, workers))


def _amounts(node_type: Mapping[str, Any]) -> dict[str, float]:
    resources = node_type.get("resources") or {}
    return {key: float(amount) for key, amount in resources.items() if isinstance(amount, int | float)}


def _in_one(bundle: Node, node: Node) -> int:
    return min((int(node.get(key, 0.0) / amount + 1e-9) for key, amount in bundle.items() if amount > 0), default=0)


def _most(bundle: Node, kind: NodeKind, number: int) -> int:
    each = _in_one(bundle, kind.resources)
    return number if each and kind.max_nodes is None else each * (kind.max_nodes or 0)


def _grown(bundle: Node, number: int, have: Sequence[Node], supply: Supply) -> str:
    """Which nodes would have to be added; empty: no number of them is enough."""
    missing = number - placed(bundle, number, have)
    left = supply.max_workers
    added = []
    for kind in sorted(supply.kinds or (), key=lambda one: _in_one(bundle, one.resources), reverse=True):
        each = _in_one(bundle, kind.resources)
        if not each or missing <= 0:
            continue
        wanted = -(-missing // each)
        limits = [limit for limit in (kind.max_nodes, left) if limit is not None]
        nodes = min([wanted, *limits])
        if nodes <= 0:
            continue
        left = None if left is None else left - nodes
        missing -= nodes * each
        added.append(f"{nodes} more node(s) of {kind.name}")
    return ", ".join(added) if missing <= 0 else ""
