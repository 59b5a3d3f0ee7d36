"""The question put to every node of a cluster, in turn with nobody: all nodes answer at once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from luthier.cluster.preflight.facts import NodeFacts, Question, answer

TIMEOUT_VARIABLE = "LUTHIER_PREFLIGHT_TIMEOUT_S"
"""Environment variable: how long nodes may take to answer, in seconds."""

_ANSWER_TIMEOUT_S = 60.0  # a node's first task may have to fetch luthier and start a Python process

_HEAD = "node:__internal_head__"


@dataclass(frozen=True)
class Node:
    """One node of the cluster.

    Attributes:
        node_id: Ray's id.
        name: Address and the id's beginning, for people.
        resources: What it has in all.
    """

    node_id: str
    name: str
    resources: Mapping[str, float]

    @property
    def is_head(self) -> bool:
        """Whether the cluster's control store runs on it."""
        return _HEAD in self.resources

    def holds(self, request: Mapping[str, float]) -> bool:
        """Whether a worker that reserves this can ever run on it."""
        return all(self.resources.get(key, 0.0) >= amount for key, amount in request.items())


def alive_nodes() -> tuple[Node, ...]:
    """Those of the open session, the head first."""
    import ray

    found = [
        Node(one["NodeID"], f"{one['NodeManagerAddress']} [{one['NodeID'][:8]}]", one["Resources"])
        for one in ray.nodes()
        if one["Alive"]
    ]
    return tuple(sorted(found, key=lambda node: (not node.is_head, node.name)))


def is_this_process(nodes: tuple[Node, ...]) -> bool:
    """Whether the cluster is one node, and this process is on it: then nobody else need be asked."""
    import ray

    return len(nodes) == 1 and nodes[0].node_id == ray.get_runtime_context().get_node_id()


def ask_nodes(questions: Mapping[str, Question]) -> dict[str, NodeFacts | str]:
    """Ask nodes at once.

    Args:
        questions: What to ask, by the id of the node.

    Returns:
        What each answered, by id; a text: why it did not.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    timeout_s = float(os.environ.get(TIMEOUT_VARIABLE, _ANSWER_TIMEOUT_S))
    task = ray.remote(num_cpus=0, max_retries=0)(answer)
    asked: dict[Any, str] = {}
    for node_id, question in questions.items():
        there = NodeAffinitySchedulingStrategy(node_id, soft=False)
        asked[task.options(scheduling_strategy=there).remote(question, node_id)] = node_id
    done, late = ray.wait(list(asked), num_returns=len(asked), timeout=timeout_s)
    told: dict[str, NodeFacts | str] = {}
    for reference in done:
        try:
            told[asked[reference]] = ray.get(reference)
        except Exception as error:  # whatever a node's Python raises, it is one finding
            lines = [line for line in str(error).splitlines() if line.strip()]
            told[asked[reference]] = f"failed ({type(error).__name__}: {lines[-1].strip() if lines else ''})"
    for reference in late:
        ray.cancel(reference, force=True)
        told[asked[reference]] = f"did not answer within {timeout_s:g} s"
    return told


def question_for(node: Node, question: Question, worker: Mapping[str, float]) -> Question:
    """What one node is asked: data and model only where workers may run, the port on the head alone."""
    works = node.holds(worker)
    return replace(
        question,
        places=tuple(place for place in question.places if works or not place.for_workers),
        files=question.files if works else {},
        model=question.model if works else None,
        gpus=question.gpus and works,
        listen=question.listen if node.is_head else None,
    )
