"""Stages of a run: what each one's config is, and which can't follow each other."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from luthier.config import RunConfig, apply_overrides, config_hash, dump_yaml, load_config
from luthier.config.sequence import judged_datasets, trainings

DATASETS = [
    {"name": "text", "train": "text.jsonl", "validation": "text-validation.jsonl"},
    {"name": "answers", "train": "answers.jsonl", "validation": "answers-validation.jsonl", "test": "test.jsonl"},
    {"name": "bare", "train": "bare.jsonl"},
]


def config(stages: list[dict[str, Any]], **parts: Any) -> RunConfig:
    described = {"name": "demo", "model": {"model_name_or_path": "some/model"}, "datasets": DATASETS}
    return RunConfig.model_validate({**described, "stages": stages, **parts})


TWO: list[dict[str, Any]] = [
    {"name": "one", "datasets": ["text"], "train": {"objective": "pretraining", "learning_rate": 1e-5}},
    {"name": "two", "datasets": ["answers"], "data": {"max_length": 64}, "max_forgetting": 0.1},
]


def test_each_stage_is_a_training_with_its_own_settings_and_the_runs_others() -> None:
    cfg = config(TWO, train={"lora_r": 4})
    first, second = trainings(cfg)
    assert [[dataset.name for dataset in one.datasets] for one in (first, second)] == [["text"], ["answers"]]
    assert (first.train.objective, first.train.learning_rate, first.train.lora_r) == ("pretraining", 1e-5, 4)
    assert (second.train.objective, second.data.max_length, second.train.lora_r) == ("sft", 64, 4)
    assert first.stages == second.stages == ()
    assert [dataset.name for dataset in judged_datasets(cfg)] == ["answers"]


def test_a_run_without_stages_is_one_training_of_itself() -> None:
    cfg = config([])
    assert trainings(cfg) == (cfg,)
    assert judged_datasets(cfg) == cfg.datasets


def test_stages_survive_yaml_and_overrides_and_count_in_the_hash(tmp_path: Any) -> None:
    cfg = config(TWO)
    path = tmp_path / "config.yaml"
    path.write_text(dump_yaml(cfg), encoding="utf-8")
    assert load_config(path) == cfg
    changed = apply_overrides(cfg, {"stages.1.max_forgetting": 0.2, "stages.0.train.learning_rate": 1e-4})
    assert changed.stages[1].max_forgetting == 0.2
    assert trainings(changed)[0].train.learning_rate == 1e-4
    assert config_hash(changed) != config_hash(cfg)


REFUSED: list[tuple[list[dict[str, Any]], dict[str, Any], str]] = [
    ([{"name": "one"}, {"name": "one"}], {}, "stages[].name must be distinct"),
    (
        [{"name": "one", "datasets": ["other"]}],
        {},
        "stages[0].datasets names 'other'; datasets are answers, bare, text",
    ),
    ([{"name": "one", "train": {"lora_r": 2}}], {}, "stages[0].train.lora_r must be the same in all stages"),
    ([{"name": "one", "train": {"learning_rat": 2}}], {}, "stages[0].train.learning_rat: Extra inputs"),
    ([{"name": "one", "train": {"learning_rate": 7}}], {}, "stages[0].train.learning_rate: Input should be less"),
    ([{"name": "one", "train": {"objective": "pretraining"}}], {}, "set train.objective: pretraining"),
    (
        [{"name": "one"}],
        {"train": {"objective": "classification"}},
        "stages can't learn train.objective: classification",
    ),
    ([{"name": "one"}], {"train": {"init_lora_weights": "pissa"}}, "no later stage could go on with"),
    ([{"name": "one", "max_forgetting": 0.1}], {}, "no stage comes before it"),
    (
        [{"name": "one", "datasets": ["bare"]}, {"name": "two", "max_forgetting": 0.1}],
        {},
        "'bare' has no validation file",
    ),
    (
        [{"name": "one"}],
        {"tune": {"search_space": {"train.learning_rate": {"type": "choice", "values": [1e-4, 1e-3]}}}},
        "leave one of the two out",
    ),
]


@pytest.mark.parametrize(("stages", "parts", "message"), REFUSED, ids=[message for *_, message in REFUSED])
def test_stages_that_cant_follow_each_other_are_refused(
    stages: list[dict[str, Any]], parts: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        config(stages, **parts)
    assert message in str(caught.value)


def test_weights_are_for_all_datasets_or_none() -> None:
    weighted = [{**dataset, "weight": 1.5} for dataset in DATASETS]
    assert config([], datasets=weighted).datasets[0].weight == 1.5
    with pytest.raises(ValidationError, match="not for 'text'"):
        config([], datasets=[DATASETS[0], *weighted[1:]])
    with pytest.raises(ValidationError, match="greater than 0"):
        config([], datasets=[{**DATASETS[0], "weight": 0.0}])
