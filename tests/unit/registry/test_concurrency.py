"""Several writers at once, and writers that die: real processes on one directory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest

from luthier.errors import RegistryError
from luthier.registry import Registry
from luthier.registry.store import LocalStore

WEIGHTS = b"\x02\x00\x00\x00\x00\x00\x00\x00{}"

_REGISTER = """
import sys, time
from pathlib import Path
from luthier.registry import Registry
from luthier.registry.store import LocalStore
create = LocalStore.create
def late(self, key, data):
    time.sleep(0.01)  # widens the gap between reading the last number and taking the next
    create(self, key, data)
LocalStore.create = late
uri, artifact, go, actor = sys.argv[1:]
registry = Registry(uri)
Path(f"{go}-{actor}").touch()
while not Path(go).exists():
    time.sleep(0.001)
for _ in range(10):
    print(registry.register(Path(artifact), "sections", {"by": actor}, actor=actor).version, flush=True)
"""

_MOVE = """
import sys, time
from pathlib import Path
from luthier.registry import Registry
uri, version, go, actor = sys.argv[1:]
registry = Registry(uri)
Path(f"{go}-{actor}").touch()
while not Path(go).exists():
    time.sleep(0.001)
for step in range(25):
    registry.set_alias("sections", "champion", int(version), actor, f"{actor}-{step}")
"""

# The copy stalls after the first file, long enough to be killed there.
_STALL = """
import sys, time
from pathlib import Path
from luthier.registry import Registry
from luthier.registry.store import LocalStore
whole = LocalStore.upload
def upload(self, source, key):
    if key.endswith("adapter_model.safetensors"):
        (self.local_path(key)).write_bytes(b"half")
        print("stalled", flush=True)
        time.sleep(60)
    return whole(self, source, key)
LocalStore.upload = upload
Registry(sys.argv[1]).register(Path(sys.argv[2]), "sections", {"n": 1})
"""


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A Python process that runs the code from the repository's root."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )


def release(go: Path) -> None:
    """Let both writers loose once both are ready."""
    deadline_s = time.monotonic() + 60
    while not all(go.with_name(f"go-{actor}").exists() for actor in ("ada", "bob")):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    go.touch()


def finish(process: subprocess.Popen[str]) -> list[str]:
    """Its lines, after it ended well."""
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return output.split()


def test_two_processes_register_ten_each(tmp_path: Path, artifact: Path) -> None:
    uri, go = str(tmp_path / "registry"), tmp_path / "go"
    writers = [start(_REGISTER, uri, artifact, go, actor) for actor in ("ada", "bob")]
    release(go)
    taken = [int(line) for writer in writers for line in finish(writer)]
    assert sorted(taken) == list(range(1, 21))
    registry = Registry(uri)
    versions = registry.list("sections")
    assert [version.version for version in versions] == list(range(1, 21))
    for version in versions:
        assert registry.fetch(version.ref)
        assert registry.get_evaluation(version.ref) == {"by": version.registration.registered_by}
    assert [version.registration.registered_by for version in versions].count("ada") == 10


def test_two_processes_move_one_alias(tmp_path: Path, artifact: Path) -> None:
    uri, go = str(tmp_path / "registry"), tmp_path / "go"
    registry = Registry(uri)
    registry.register(artifact, "sections")
    registry.register(artifact, "sections")
    writers = [start(_MOVE, uri, number, go, actor) for number, actor in ((1, "ada"), (2, "bob"))]
    release(go)
    for writer in writers:
        finish(writer)
    records = registry.history("sections")
    assert sorted(record.reason for record in records) == sorted(f"{a}-{n}" for a in ("ada", "bob") for n in range(25))
    for actor in ("ada", "bob"):
        assert [r.reason for r in records if r.actor == actor] == [f"{actor}-{n}" for n in range(25)]
    assert [record.previous for record in records] == [None, *(record.version for record in records[:-1])]
    assert registry.aliases("sections") == {"champion": records[-1].version}


def test_a_killed_registration_leaves_no_version(tmp_path: Path, artifact: Path) -> None:
    uri = str(tmp_path / "registry")
    registry = Registry(uri)
    registry.register(artifact, "sections")
    writer = start(_STALL, uri, artifact)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "stalled\n"
    os.kill(writer.pid, signal.SIGKILL)
    writer.communicate(timeout=10)
    assert (tmp_path / "registry/sections/versions/2/adapter/adapter_model.safetensors").read_bytes() == b"half"
    assert [version.ref for version in registry.list()] == ["sections@1"]
    assert registry.resolve("sections@latest").ref == "sections@1"
    with pytest.raises(RegistryError, match="sections@2"):
        registry.resolve("sections@2")
    with pytest.raises(RegistryError, match="sections@2"):
        registry.set_alias("sections", "champion", 2, "ada", "why")
    assert registry.register(artifact, "sections").ref == "sections@3"
    assert (registry.fetch("sections@3") / "adapter/adapter_model.safetensors").read_bytes() == WEIGHTS
    assert [version.ref for version in registry.list()] == ["sections@1", "sections@3"]


def test_threads_share_a_memory_registry(artifact: Path) -> None:
    uri = f"memory://{uuid.uuid4().hex}"
    taken: list[int] = []

    def work() -> None:
        for _ in range(5):
            taken.append(Registry(uri).register(artifact, "sections").version)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(1, 21))
    assert len(Registry(uri).list("sections")) == 20


def test_a_copy_that_differs_is_not_published(tmp_path: Path, artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = LocalStore.upload

    def bad_disk(self: LocalStore, source: Path, key: str) -> object:
        flipped = tmp_path / "flipped"
        flipped.write_bytes(source.read_bytes()[:-1] + b"!")
        return whole(self, flipped, key)

    registry = Registry(str(tmp_path / "registry"))
    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "upload", bad_disk)
        with pytest.raises(ValueError, match="SHA-256 is"):
            registry.register(artifact, "sections")
    assert registry.list() == []
    assert registry.register(artifact, "sections").version == 2


def test_without_hard_links_the_lock_decides(tmp_path: Path, artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(source: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    registry = Registry(str(tmp_path / "registry"))
    taken: list[int] = []

    def work() -> None:
        for _ in range(5):
            taken.append(registry.register(artifact, "sections").version)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(1, 16))
    assert len(registry.list()) == 15
