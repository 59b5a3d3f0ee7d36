"""What an objective decides in a configuration, and which combinations are refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from luthier.config import RunConfig, apply_overrides


def config(train: dict[str, Any], dataset: dict[str, Any] | None = None, **parts: Any) -> RunConfig:
    files = {"train": "train.jsonl", **(dataset or {})}
    return RunConfig.model_validate(
        {"name": "demo", "model": {"model_name_or_path": "some/model"}, "datasets": [files], "train": train, **parts}
    )


def test_the_objective_decides_whom_the_candidate_is_held_against() -> None:
    assert config({}).gate.against == ("base", "few_shot", "incumbent")
    classifier = config({"objective": "classification"})
    assert (classifier.gate.against, classifier.evaluate.few_shot_k) == (("majority", "incumbent"), 0)
    text = config({"objective": "pretraining"}, gate={"metric": "perplexity"}, evaluate={"batch_size": 3})
    assert (text.gate.against, text.evaluate.few_shot_k, text.evaluate.batch_size) == (("base", "incumbent"), 0, 3)
    assert apply_overrides(text, {"train.learning_rate": 0.1}).gate == text.gate


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"train": {"objective": "dpo", "method": "full"}}, "objective: dpo needs method: lora"),
    ({"train": {"dpo": {"beta": 0.2}}}, "train.dpo is set but objective is sft; set objective: dpo"),
    ({"train": {"classification": {"freeze_body": True}}}, "train.classification is set but objective is sft"),
    (
        {"train": {"objective": "dpo", "dpo": {"loss_type": "ipo", "label_smoothing": 0.1}}},
        "has no meaning with loss_type",
    ),
    ({"train": {"objective": "classification", "classification": {"freeze_body": True}}}, "set method: full"),
    ({"train": {"objective": "classification"}, "gate": {"metric": "rouge_l"}}, "gate.metric=rouge_l is not measured"),
    ({"train": {"objective": "classification"}, "gate": {"against": ["base"]}}, "gate.against names base"),
    ({"train": {"objective": "classification"}, "evaluate": {"few_shot_k": 2}}, "evaluate.few_shot_k=2"),
    ({"train": {"objective": "pretraining"}, "gate": {"metric": "accuracy"}}, "set it to one of perplexity"),
    ({"train": {"objective": "pretraining"}, "gate": {"min_value": 0.5}}, "gate.min_value=0.5 can't bound perplexity"),
    (
        {"train": {}, "gate": {"against": ["majority"]}},
        "gate.against names majority, which train.objective: sft has not",
    ),
    ({"train": {"objective": "pretraining"}, "dataset": {"system": "Hi."}}, "datasets[].system of 'data' has no place"),
]


@pytest.mark.parametrize(("settings", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_does_not_fit_is_refused_with_its_remedy(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        config(**settings)
    assert message in str(caught.value)
