"""What nodes told, turned into findings. Nothing is asked here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from luthier.cluster.preflight.facts import NodeFacts, Question
from luthier.cluster.preflight.findings import CLUSTER, DRIVER, Finding
from luthier.cluster.preflight.gpus import Gpus
from luthier.cluster.preflight.places import Seen
from luthier.errors import ConfigError, DataError, LuthierError, ModelError, OutputError

GIB = 2**30
_LEAST_FREE_SHARE = 0.9
"""Of a GPU's memory; a driver and its context take some hundreds of MB."""

_HARMLESS_XIDS = {13, 31, 43, 45}
"""Faults of a program, not of the GPU (NVIDIA's list of Xid errors)."""

Facts = Mapping[str, NodeFacts]
"""What each node told, by its name; the driver's first, under :data:`DRIVER`."""


def check_facts(facts: Facts, question: Question, needs_bytes: Mapping[str, int]) -> Iterator[Finding]:
    """Every check of what nodes told of themselves.

    Args:
        facts: What they told.
        question: What they were asked.
        needs_bytes: Free disk that the run needs, by the key of the place.
    """
    yield from versions(facts)
    for node, told in facts.items():
        yield from places(node, told, question, needs_bytes)
        yield from files(node, told, facts[DRIVER], question)
        if told.model is not None:
            yield Finding("model", node, *told.model, ModelError)
        yield from (Finding("secrets", node, *problem, ConfigError) for problem in told.secrets.values())
        if told.gpus is not None:
            yield from gpus(node, told.gpus)
        if told.port is not None and question.listen is not None:
            host, port = question.listen
            problem = f"serve.port: {host}:{port} can't be listened on ({told.port})"
            yield Finding("port", node, problem, "set serve.port to a free port", ConfigError)


def versions(facts: Facts) -> Iterator[Finding]:
    """What is installed must be what most nodes have, or else the driver."""
    packages = dict.fromkeys(package for told in facts.values() for package in told.versions)
    for package in packages:
        have = {node: told.versions[package] for node, told in facts.items() if package in told.versions}
        # A tie goes to the first, which is the driver.
        usual = Counter(have.values()).most_common(1)[0][0]
        for node, found in have.items():
            if found is None:
                yield Finding("versions", node, f"{package} is not installed", _install(package, usual))
            elif found != usual and usual is not None:
                others = "the other nodes have" if len(have) > 2 else "the other has"
                yield Finding("versions", node, f"{package} is {found}, {others} {usual}", _install(package, usual))


def _install(package: str, version: str | None) -> str:
    if package == "Python":
        return f"use Python {version} on every node"
    return f"install {package}=={version} there" if version else f"install {package}"


def places(node: str, told: NodeFacts, question: Question, needs_bytes: Mapping[str, int]) -> Iterator[Finding]:
    """Every node reads and writes the same places, and there is room."""
    for place in question.places:
        seen = told.seen.get(place.key)
        if seen is None:
            continue
        name = f"{place.key}: {place.where!r}"
        check = f"storage {place.key}"
        if seen.unknown_scheme:
            problem = f"{place.key} {place.where!r}: {seen.error}"
            yield Finding(check, node, problem, "correct the scheme or install its fsspec package", ConfigError)
        elif seen.error is not None:
            remedy = (
                "name a writable directory"
                if node == DRIVER and place.is_local
                else f"let {place.key} lie on storage that every node mounts and may write"
            )
            yield Finding(check, node, f"{name} {seen.error}", remedy, OutputError)
        elif not seen.same:
            remedy = f"let {place.key} lie on shared storage, mounted at the same path on every node"
            yield Finding(check, node, f"{name} is not the place that the driver calls so", remedy, OutputError)
        else:
            yield from _room(node, place.key, place.where, seen, needs_bytes.get(place.key, 0))


def _room(node: str, key: str, where: str, seen: Seen, needed: int) -> Iterator[Finding]:
    if seen.free_bytes is not None and seen.free_bytes < needed:
        problem = f"{key}: {where!r} has {seen.free_bytes / GIB:.1f} GiB free, the run writes about {needed / GIB:.1f}"
        yield Finding("disk", node, problem, f"make room, lower train.save_total_limit or move {key}", OutputError)


def files(node: str, told: NodeFacts, driver: NodeFacts, question: Question) -> Iterator[Finding]:
    """Data files lie where workers may run, and are the driver's."""
    for key, found in told.files.items():
        name = f"{key}: {question.files[key]!r}"
        if isinstance(found, str):
            remedy = "correct the path" if node == DRIVER else "put it on storage that all nodes share"
            yield Finding("data", node, f"{name} {found}", remedy, DataError)
        elif isinstance(size := driver.files.get(key), int) and found != size:
            problem = f"{name} has {found} bytes, the driver's {size}"
            yield Finding("data", node, problem, "put one file on storage that all nodes share", DataError)


def gpus(node: str, told: Gpus) -> Iterator[Finding]:
    """GPUs that would fail, or are taken."""
    if told.torch_cuda is None:
        yield Finding("gpu", node, "torch is built without CUDA", "install torch's CUDA build (requirements/gpu.txt)")
    if told.driver_cuda is None:
        yield Finding("gpu", node, "there is no NVIDIA driver", "install one, or train without GPUs")
    elif told.torch_cuda is not None and told.driver_cuda[0] < told.torch_cuda[0]:
        ours, theirs = (".".join(map(str, version)) for version in (told.torch_cuda, told.driver_cuda))
        yield Finding("gpu", node, f"torch is built for CUDA {ours}, the driver speaks {theirs}", "update the driver")
    for gpu in told.gpus:
        name = f"GPU {gpu.index} ({gpu.name})"
        reset = f"drain the node and reset it (nvidia-smi --gpu-reset -i {gpu.index})"
        if gpu.uncorrected_errors:
            yield Finding("gpu", node, f"{name} has {gpu.uncorrected_errors} uncorrected memory errors", reset)
        if gpu.remap_failed:
            yield Finding("gpu", node, f"{name} has memory that can't be replaced any more", "replace the GPU")
        if gpu.remap_pending:
            yield Finding("gpu", node, f"{name} has damaged memory to replace at its next reset", reset)
        if gpu.free_bytes < _LEAST_FREE_SHARE * gpu.total_bytes:
            problem = f"{name} has {gpu.free_bytes / GIB:.0f} of {gpu.total_bytes / GIB:.0f} GiB free"
            yield Finding("gpu", node, problem, "end what uses it (nvidia-smi shows the processes)")
        if serious := sorted(set(gpu.xids) - _HARMLESS_XIDS):
            yield Finding("gpu", node, f"{name} had driver errors: Xid {', '.join(map(str, serious))}", reset)


def authentication(asks: bool | None, addresses: Sequence[str], allowed: bool | str) -> Iterator[Finding]:
    """A cluster that asks nobody for a token is refused, unless the config names it.

    Args:
        asks: Whether it asks; None: it could not be found out.
        addresses: What the cluster goes by; the first is shown.
        allowed: ``cluster.allow_unauthenticated``.
    """
    if asks is not False or allowed is True or allowed in addresses:
        return
    address = addresses[0]
    problem = f"the cluster at {address} asks nobody for a token: whoever reaches it can run code on it"
    remedy = (
        f"start it with RAY_AUTH_MODE=token, or, if it is meant to be open, set cluster.allow_unauthenticated={address}"
    )
    yield Finding("token", CLUSTER, problem, remedy)


def of_error(check: str, error: LuthierError) -> Finding:
    """An error that one of luthier's own checks raised; its message tells the remedy."""
    return Finding(check, CLUSTER, str(error), "", type(error))
