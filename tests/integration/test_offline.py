"""``offline: true``: a run passes where the network is refused, and none of its processes so much as tries it.

Every process of a run, Ray's own in C++ too, is watched by strace inside a network namespace whose only way out is
refused: a route is there to be asked for, so that a lookup of one's own address counts as an attempt.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import EXAMPLES

pytestmark = pytest.mark.slow

_REFUSED = """\
ip link set lo up
ip link add out0 type dummy && ip addr add 192.0.2.77/24 dev out0 && ip link set out0 up
ip route add unreachable default
exec "$@"
"""
NAMESPACE = ("unshare", "--map-root-user", "--net", "sh", "-ec", _REFUSED, "sh")
WATCHED = ("strace", "-f", "--seccomp-bpf", "-e", "trace=connect,sendto,sendmsg,sendmmsg", "-e", "signal=none")

_PLACE = re.compile(r'(?:sin_addr=inet_addr\("|inet_pton\(AF_INET6, ")([^"]+)"')
_LOOPBACK = re.compile(r"127\.|::1$|::ffff:127\.|0\.0\.0\.0$|::$")


def _works() -> bool:
    tools = [shutil.which(tool) for tool in ("unshare", "strace", "ip")]
    if not all(tools):
        return False
    tried = subprocess.run([*NAMESPACE, *WATCHED, "-o", "/dev/null", "true"], capture_output=True, check=False)
    return tried.returncode == 0


needs_tools = pytest.mark.skipif(not _works(), reason="needs unshare, ip and strace, and the right to use them")


def attempts(command: Sequence[str], directory: Path) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run a command without a network, and list what it tried to reach besides this machine."""
    trace = directory / "trace"
    watched = [*NAMESPACE, *WATCHED, "-o", str(trace), *command]
    done = subprocess.run(watched, cwd=directory, capture_output=True, text=True, timeout=400, check=False)
    lines = trace.read_text(errors="replace").splitlines()
    assert any("AF_INET" in line for line in lines)  # something was seen
    return done, [line for line in lines if any(not _LOOPBACK.match(place) for place in _PLACE.findall(line))]


@pytest.fixture
def config(tmp_path: Path, shallow_base_dir: Path) -> Path:
    for split, count in (("train", 12), ("validation", 5), ("test", 8)):
        lines = (EXAMPLES / f"{split}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        (tmp_path / f"{split}.jsonl").write_text("".join(lines[:count]), encoding="utf-8")
    described: dict[str, Any] = {
        "name": "offline",
        "offline": True,
        "storage_path": "runs",
        "model": {"model_name_or_path": str(shallow_base_dir), "attn_implementation": "eager"},
        "datasets": [{split: f"{split}.jsonl" for split in ("train", "validation", "test")}],
        "data": {"max_length": 96},
        "train": {"num_workers": 2, "per_device_train_batch_size": 4, "max_steps": 1, "bf16": False},
        "evaluate": {"few_shot_k": 0, "max_new_tokens": 4},
        "gate": {"against": []},
        "registry": {"uri": "registry"},
        "cluster": {"num_cpus": 2},
    }
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(described))
    return path


@needs_tools
def test_training_and_evaluation_reach_for_nothing(config: Path) -> None:
    luthier = f"{sys.executable} -m luthier.cli"
    both = f"{luthier} train run.yaml && {luthier} evaluate run.yaml"
    done, tried = attempts(["sh", "-c", both], config.parent)
    assert done.returncode == 0, done.stderr
    assert list(config.parent.glob("runs/offline-*/evaluation/*"))
    assert tried == []


@needs_tools
@pytest.mark.parametrize(
    "code",
    [
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(('8.8.8.8', 53))",
        "s = socket.socket(); s.connect(('169.254.169.254', 80))",
        "socket.getaddrinfo('example.com', 80)",
        "s = socket.socket(socket.AF_INET6); s.connect(('2001:db8::1', 80))",
    ],
    ids=["route", "metadata", "name", "ipv6"],
)
def test_an_attempt_is_seen(code: str, tmp_path: Path) -> None:
    watched = f"import socket; socket.create_server(('127.0.0.1', 0)).getsockname(); {code}"
    local = "l = socket.create_server(('127.0.0.1', 0)); socket.create_connection(l.getsockname());"
    _, tried = attempts([sys.executable, "-c", watched.replace("import socket;", f"import socket; {local}")], tmp_path)
    assert tried
