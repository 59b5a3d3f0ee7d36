"""The preflight of a run: everything that can stop it, looked for before anything is written or trained."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from luthier.cluster.preflight import checks
from luthier.cluster.preflight.auth import local_cluster_asks_for_token
from luthier.cluster.preflight.disk import REGISTRY, STORAGE, written_bytes
from luthier.cluster.preflight.facts import NodeFacts, Question, answer
from luthier.cluster.preflight.findings import CLUSTER, DRIVER, Finding, Report, report
from luthier.cluster.preflight.nodes import (
    Node,
    alive_nodes,
    ask_nodes,
    is_this_process,
    question_for,
)
from luthier.cluster.preflight.places import Place, Seen, reaches_driver, tried_here
from luthier.cluster.resources import STAGES, Stage, shortages
from luthier.cluster.session import start
from luthier.config import RunConfig
from luthier.config.deepspeed_file import DeepspeedFile
from luthier.config.places import absolute, absolute_or_uri
from luthier.errors import LuthierError, ResourceError
from luthier.paths import cache_dir, is_uri

ConfigCheck = Callable[[], None]
"""Raises a LuthierError where something is wrong."""

_SPLITS = ("train", "validation", "test")
_TRAINING = {"train", "tune"}


@contextmanager
def checked(
    cfg: RunConfig, stages: tuple[Stage, ...] = STAGES, also: Sequence[ConfigCheck] = (), *, port: bool = False
) -> Iterator[None]:
    """Refuse a run that something would stop, before it writes anything.

    A cluster that is joined stays joined for the length of the block, so that :func:`luthier.cluster.session.start`
    finds it open.

    Args:
        cfg: The configuration.
        stages: Those that will run.
        also: Further checks, whose errors belong into the same list.
        port: Whether ``serve.port`` is to be free on the cluster's head.

    Raises:
        LuthierError: Every problem, each with its remedy.
    """
    with ExitStack() as until:
        examine(cfg, stages, also, port=port, until=until).require_passed()
        yield


def examine(
    cfg: RunConfig,
    stages: tuple[Stage, ...] = STAGES,
    also: Sequence[ConfigCheck] = (),
    *,
    port: bool = False,
    until: ExitStack | None = None,
) -> Report:
    """Look at everything, and tell what was found.

    Args:
        cfg: The configuration.
        stages: Those that will run.
        also: Further checks.
        port: Whether ``serve.port`` is to be free on the cluster's head.
        until: What holds the session that is opened here; None: it is closed at the end.
    """
    began = time.monotonic()
    found: list[Finding] = []
    looked_at: list[tuple[str, str]] = []
    with ExitStack() as stack:
        nodes = _nodes(cfg, until or stack, found)
        with tried_here(_places(cfg)) as (places, seen):
            question = _question(cfg, stages, places, nodes, port=port)
            facts = _facts(question, seen, nodes, cfg, found)
            found += checks.check_facts(facts, question, written_bytes(cfg) if set(stages) & _TRAINING else {})
        found += _shortages(cfg, stages, nodes)
        found += _token(cfg, nodes, facts)
        looked_at += _looked_at(facts, question, nodes, has_also=bool(also))
    found += _told_by(also, found)
    return report(looked_at, found, time.monotonic() - began)


def _told_by(also: Sequence[ConfigCheck], found: Sequence[Finding]) -> Iterator[Finding]:
    """What further checks tell; one that stumbles over what is told already, such as a file that is not there, is not
    heard."""
    here = {finding.failure for finding in found if finding.node == DRIVER}
    told: set[str] = set()
    for check in also:
        try:
            check()
        except LuthierError as error:
            if type(error) not in here and str(error) not in told:
                told.add(str(error))
                yield checks.of_error("config", error)


def joins_a_cluster(cfg: RunConfig) -> bool:
    """Whether the run uses a cluster that is there, rather than one that it starts."""
    import sys

    ray = sys.modules.get("ray")  # not imported, nothing is open
    return bool(cfg.cluster.address or os.environ.get("RAY_ADDRESS") or (ray is not None and ray.is_initialized()))


def _nodes(cfg: RunConfig, until: ExitStack, found: list[Finding]) -> tuple[Node, ...] | None:
    """The nodes of the cluster that is joined; None where there is none, or it can't be."""
    if not joins_a_cluster(cfg):
        return None
    try:
        until.enter_context(start(cfg))
    except ResourceError as error:
        found.append(checks.of_error(CLUSTER, error))
        return None
    return alive_nodes()


def _places(cfg: RunConfig) -> tuple[Place, ...]:
    token = uuid.uuid4().hex
    return (
        Place(STORAGE, absolute(cfg.storage_path), token),
        Place(REGISTRY, absolute_or_uri(cfg.registry.uri), token),
        # Workers read the converted base model and tokenised rows from it.
        Place("LUTHIER_CACHE", absolute(str(cache_dir())), token, for_workers=True),
    )


def _question(
    cfg: RunConfig, stages: tuple[Stage, ...], places: tuple[Place, ...], nodes: tuple[Node, ...] | None, *, port: bool
) -> Question:
    packages = ["ray", "torch", "transformers", "peft"]
    if cfg.train.strategy == "deepspeed" or isinstance(cfg.train.deepspeed, DeepspeedFile):
        packages.append("deepspeed")
    if "serve" in stages and cfg.train.answers_prompts:
        packages.append("vllm")
    return Question(
        packages=tuple(packages),
        places=places,
        files={
            f"datasets[{number}].{split}": absolute(path)
            for number, dataset in enumerate(cfg.datasets)
            for split in _SPLITS
            if stages != ("serve",) and (path := getattr(dataset, split)) is not None and not is_uri(path)
        },
        model=cfg.model,
        offline=cfg.offline,
        secrets=cfg.secrets,
        gpus=cfg.train.use_gpu,
        gcs_address=_address() if nodes else None,
        listen=(cfg.serve.host, cfg.serve.port) if port and nodes and not _serve_runs() else None,
    )


def _facts(
    question: Question,
    seen: Mapping[str, Seen],
    nodes: tuple[Node, ...] | None,
    cfg: RunConfig,
    found: list[Finding],
) -> dict[str, NodeFacts]:
    """What the driver and, on a cluster of more than this node, every node told."""
    alone = nodes is None or is_this_process(nodes)
    facts = {DRIVER: answer(_for_driver(question, alone=alone), DRIVER, seen)}
    if nodes is None or alone:
        return facts
    worker = cfg.train.reserved_per_worker
    told = ask_nodes({node.node_id: question_for(node, question, worker) for node in nodes})
    for node in nodes:
        answered = told[node.node_id]
        if isinstance(answered, str):
            remedy = "see the logs of its raylet and runtime environment, or take the node out of the cluster"
            found.append(Finding("answers", node.name, answered, remedy))
            continue
        facts[node.name] = answered
        found += _unseen_by_driver(node, answered, question)
    return facts


def _for_driver(question: Question, *, alone: bool) -> Question:
    """The driver of a cluster trains nothing and serves nothing; alone on its node it does."""
    if alone:
        return question
    packages = tuple(package for package in question.packages if package != "vllm")
    return replace(question, packages=packages, gpus=False, listen=None, gcs_address=None)


def _unseen_by_driver(node: Node, told: NodeFacts, question: Question) -> Iterator[Finding]:
    for place in question.places:
        seen = told.seen.get(place.key)
        if seen is None or seen.error or not seen.same or not place.made:
            continue
        if not reaches_driver(place, node.node_id):
            problem = f"{place.key}: the driver does not see what this node writes to {place.where!r}"
            yield Finding(f"storage {place.key}", node.name, problem, "let it lie on storage that all nodes share")


def _shortages(cfg: RunConfig, stages: tuple[Stage, ...], nodes: tuple[Node, ...] | None) -> Iterator[Finding]:
    if nodes is not None:
        have: dict[str, float] = {}
        for node in nodes:
            for key, amount in node.resources.items():
                have[key] = have.get(key, 0.0) + amount
    elif cfg.train.use_gpu:
        return  # what GPUs a cluster has that is started here, Ray tells when it has been
    else:
        have = {"CPU": float(cfg.cluster.num_cpus or os.cpu_count() or 1)}
    for problem in shortages(cfg, have, stages):
        told, _, remedy = problem.rstrip(".").partition("; ")
        yield Finding("resources", CLUSTER, told, remedy)


def _token(cfg: RunConfig, nodes: tuple[Node, ...] | None, facts: Mapping[str, NodeFacts]) -> Iterator[Finding]:
    if nodes is None:
        if not cfg.cluster.address and not os.environ.get("RAY_ADDRESS"):
            yield from checks.authentication(
                local_cluster_asks_for_token(), ("local",), cfg.cluster.allow_unauthenticated
            )
        return
    answers = {told.asks_for_token for told in facts.values()} - {None}
    asks = False if False in answers else True if answers else None
    named = cfg.cluster.address or os.environ.get("RAY_ADDRESS")
    addresses = [address for address in (named, _address()) if address not in (None, "auto")]
    yield from checks.authentication(asks, addresses, cfg.cluster.allow_unauthenticated)


def _looked_at(
    facts: Mapping[str, NodeFacts], question: Question, nodes: tuple[Node, ...] | None, *, has_also: bool
) -> Iterator[tuple[str, str]]:
    if has_also:
        yield "config", CLUSTER
    yield "token", CLUSTER
    yield "resources", CLUSTER
    for node, told in facts.items():
        yield "versions", node
        yield from ((f"storage {key}", node) for key in told.seen)
        yield "disk", node
        if told.files:
            yield "data", node
        yield "model", node
        if question.secrets:
            yield "secrets", node
        if told.gpus is not None:
            yield "gpu", node
        if question.listen is not None and (nodes is None or node != DRIVER):
            yield "port", node


def _address() -> str:
    import ray

    return str(ray.get_runtime_context().gcs_address)


def _serve_runs() -> bool:
    """Whether Ray Serve runs on the cluster: then it is what listens on the port."""
    import ray

    try:
        ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
    except ValueError:
        return False
    return True
