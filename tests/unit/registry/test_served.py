"""What was measured of a version: the newest counts, and a record that was changed is not believed."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from luthier.errors import IntegrityError
from luthier.registry import ModelVersion, Registry
from luthier.served_schema import ServedRecord
from tests.unit.artifacts import make_served


@pytest.fixture(params=["local", "memory"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Registry:
    return Registry(str(tmp_path / "registry") if request.param == "local" else f"memory://{tmp_path.name}")


def record(version: ModelVersion, mismatch: int = 0) -> ServedRecord:
    return make_served(version.registration.manifest_sha256, mismatch=mismatch)


def test_the_newest_record_counts_and_is_of_its_version_alone(registry: Registry, artifact: Path) -> None:
    first, second = (registry.register(artifact, "demo") for _ in range(2))
    assert registry.served(first) is None
    for number in (1, 0, 3):
        registry.add_served(first, record(first, number))
    assert registry.served(first) == record(first, 3)
    assert registry.served(second) is None
    assert [version.ref for version in registry.list()] == ["demo@1", "demo@2"]
    assert registry.resolve("demo@1") == first


def test_two_who_measure_at_once_both_keep_their_record(tmp_path: Path, artifact: Path) -> None:
    registry = Registry(str(tmp_path / "registry"))
    version = registry.register(artifact, "demo")
    threads = [threading.Thread(target=registry.add_served, args=(version, record(version))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list((tmp_path / "registry" / "demo" / "served" / "1").iterdir())) == 8


def test_a_record_that_was_changed_is_not_believed_until_another_is_added(tmp_path: Path, artifact: Path) -> None:
    registry = Registry(str(tmp_path / "registry"))
    version = registry.register(artifact, "demo")
    registry.add_served(version, record(version, 3))
    path = tmp_path / "registry" / "demo" / "served" / "1" / "00000001.json"
    stored = path.read_text()
    better = json.loads(stored)
    better["record"]["parity"]["mismatch"] = 0
    for text, named in [(json.dumps(better), "SHA-256"), ("[]", "not a record"), ("{", "not a record")]:
        path.write_text(text)
        with pytest.raises(IntegrityError, match=f"00000001.json: .*{named}"):
            registry.served(version)
    path.write_text(stored)
    assert registry.served(version) == record(version, 3)
    path.write_text("{")
    registry.add_served(version, record(version))
    assert registry.served(version) == record(version)


def test_a_record_of_another_version_is_refused(registry: Registry, artifact: Path) -> None:
    version = registry.register(artifact, "demo")
    registry.add_served(version, make_served("1" * 64))
    with pytest.raises(IntegrityError, match="measured of another version than demo@1"):
        registry.served(version)
