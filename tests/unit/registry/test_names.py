"""No name, alias or reference reaches outside the registry's root."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from luthier.errors import ConfigError, OutputError, RegistryError
from luthier.registry import Registry

NASTY = ["", ".", "..", "../evil", "/etc", "a/b", "a\\b", "a..b", "A", "a b", "a\n", "a\x00", "-a", "a%2fb"]
NASTY += ["~", "ä", "٣", "a" * 64, "con.txt", "s3://x", "$HOME", ".hidden"]


@pytest.mark.parametrize("name", NASTY)
def test_nasty_names(tmp_path: Path, artifact: Path, name: str) -> None:
    registry = Registry(str(tmp_path / "root" / "registry"))
    calls: list[Callable[[], object]] = [
        lambda: registry.register(artifact, name),
        lambda: registry.list(name),
        lambda: registry.resolve(f"{name}@1"),
        lambda: registry.fetch(f"{name}@1"),
        lambda: registry.get_evaluation(name),
        lambda: registry.aliases(name),
        lambda: registry.history(name),
        lambda: registry.rollback(name, "champion"),
        lambda: registry.set_alias(name, "champion", 1, "ada", "why"),
    ]
    for call in calls:
        with pytest.raises(RegistryError, match="not valid"):
            call()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["artifact"]


@pytest.mark.parametrize("alias", [*NASTY, "3", "3a", "latest"])
def test_nasty_aliases(tmp_path: Path, artifact: Path, alias: str) -> None:
    registry = Registry(str(tmp_path / "registry"))
    registry.register(artifact, "sections")
    with pytest.raises(RegistryError, match="alias"):
        registry.set_alias("sections", alias, 1, "ada", "why")
    assert registry.history("sections") == []


@pytest.mark.parametrize("selector", ["0", "01", "-1", "1.0", "٣", "../1", "1/../2", "champion@x", "9" * 10])
def test_nasty_selectors(tmp_path: Path, artifact: Path, selector: str) -> None:
    registry = Registry(str(tmp_path / "registry"))
    registry.register(artifact, "sections")
    with pytest.raises(RegistryError):
        registry.resolve(f"sections@{selector}")


def test_foreign_directories_are_passed_over(tmp_path: Path, artifact: Path) -> None:
    registry = Registry(str(tmp_path / "registry"))
    registry.register(artifact, "sections")
    for name in ("lost+found", ".snapshot", "Upper", "empty", "sections/versions/old", "sections/versions/0"):
        (tmp_path / "registry" / name).mkdir()
    assert [version.ref for version in registry.list()] == ["sections@1"]


@pytest.mark.parametrize("uri", ["", "  ", "nosuchscheme://x", "sftp://ada:hunter2@host/registry"])
def test_bad_uris(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"registry\.uri") as caught:
        Registry(uri)
    assert "hunter2" not in str(caught.value)


def test_an_unwritable_root_is_one_clear_error(tmp_path: Path, artifact: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    registry = Registry(str(tmp_path / "file" / "registry"))
    assert registry.list() == []
    with pytest.raises(OutputError, match=r"file/registry.*can't be written"):
        registry.register(artifact, "sections")
