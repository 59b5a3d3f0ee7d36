"""Canaries in the history of aliases."""

from __future__ import annotations

from pathlib import Path

import pytest

from luthier.errors import ConfigError, RegistryError
from luthier.registry import Canary, Registry
from tests.unit.serving.shelf import Shelf


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    shelf = Shelf(tmp_path)
    for _ in range(3):
        shelf.add()
    shelf.registry.set_alias("demo", "champion", 1, actor="a", reason="first")
    return shelf.registry


def canaries(registry: Registry) -> dict[str, Canary]:
    standing = registry.standing("demo")
    assert standing is not None
    return standing.canaries


def test_a_canary_begins_and_ends_on_the_record(registry: Registry) -> None:
    registry.begin_canary("demo", "champion", 2, 0.1, "a", "try", figures={"macro_f1": 0.7})
    assert canaries(registry) == {"champion": Canary(version=2, weight=0.1)}
    assert registry.aliases("demo") == {"champion": 1}
    assert registry.end_canary("demo", "champion", "endpoint", "it failed", {"canary_error_rate": 0.5}).version == 2
    assert canaries(registry) == {}
    told = [(one.action, one.version, one.actor, one.previous) for one in registry.history("demo")]
    assert told == [("set", 1, "a", None), ("canary", 2, "a", 1), ("canary-end", 2, "endpoint", 1)]


def test_moving_the_alias_ends_its_canary_and_rollbacks_pass_over_canaries(registry: Registry) -> None:
    registry.begin_canary("demo", "champion", 2, 0.1, "a", "try")
    registry.set_alias("demo", "champion", 2, actor="a", reason="good", forced=True)
    assert canaries(registry) == {}
    assert registry.history("demo")[-1].forced
    registry.begin_canary("demo", "champion", 3, 0.5, "a", "try")
    registry.set_alias("demo", "candidate", 3, actor="a", reason="another alias")
    assert canaries(registry) == {"champion": Canary(version=3, weight=0.5)}
    assert registry.rollback("demo", "champion").version == 1
    assert canaries(registry) == {}


def test_mistakes_are_told(registry: Registry) -> None:
    with pytest.raises(ConfigError, match="above 0 and below 1"):
        registry.begin_canary("demo", "champion", 2, 1.0, "a", "try")
    with pytest.raises(RegistryError, match="demo@1 is demo@champion already"):
        registry.begin_canary("demo", "champion", 1, 0.1, "a", "try")
    with pytest.raises(RegistryError, match="demo@candidate does not exist"):
        registry.begin_canary("demo", "candidate", 2, 0.1, "a", "try")
    with pytest.raises(RegistryError, match="has no canary"):
        registry.end_canary("demo", "champion", "a", "why")
    assert len(registry.history("demo")) == 1
