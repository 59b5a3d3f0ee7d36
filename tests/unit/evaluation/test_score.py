"""Whole evaluations: their shape, pairing, bad input and speed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from luthier.errors import DataError
from luthier.evaluation_schema import CLASS_METRICS, LABEL_TEXT_METRICS, TEXT_METRICS, Evaluation, Interval
from luthier.trainers.evaluation import Prediction, render_report, score

Answers = Callable[..., list[Prediction]]

LABELS = ("net", "mail", "math")
SETTINGS: dict[str, Any] = {"confidence": 0.95, "bootstrap_samples": 300, "seed": 1, "few_shot_k": 5}


def rows(*pairs: tuple[str, str]) -> list[Prediction]:
    return [Prediction(f"r{number}", label, answer) for number, (label, answer) in enumerate(pairs)]


def test_labelled_answers(answers: Answers) -> None:
    found = score({"base": answers(0.2, seed=1), "tuned": answers(0.9, seed=2)}, LABELS, **SETTINGS)
    tuned = found.variants["tuned"]
    assert tuple(tuned.metrics) == (*CLASS_METRICS, *LABEL_TEXT_METRICS)
    assert found.n == 120
    assert sum(map(sum, tuned.confusion)) == 120
    assert [len(row) for row in tuned.confusion] == [4, 4, 4]
    right = sum(tuned.confusion[index][index] for index in range(3))
    assert tuned.metrics["accuracy"].value == pytest.approx(right / 120)
    gain = found.differences["tuned-base"]["macro_f1"]
    assert gain.value == pytest.approx(
        tuned.metrics["macro_f1"].value - found.variants["base"].metrics["macro_f1"].value
    )
    assert 0.3 < gain.low < gain.value < gain.high < 1.0


def test_every_interval_holds_its_value_here(answers: Answers) -> None:
    found = score({"base": answers(0.4, seed=1), "tuned": answers(0.8, seed=2)}, LABELS, **SETTINGS)
    for variant in found.variants.values():
        assert all(one.low < one.value < one.high for one in variant.metrics.values())


def test_free_text_has_no_class_metrics() -> None:
    given = rows(("a b", "a b"), ("a b", "a"), ("c", "d"))
    found = score({"tuned": given}, None, **SETTINGS, perplexity={"tuned": [(1.0, 1), (1.0, 1), (1.0, 1)]})
    tuned = found.variants["tuned"]
    assert set(tuned.metrics) == {*TEXT_METRICS, "perplexity"}
    assert tuned.metrics["exact_match"].value == pytest.approx(1 / 3)
    assert tuned.metrics["rouge_l"].value == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert tuned.metrics["perplexity"].value == pytest.approx(2.718281828)
    assert (found.labels, tuned.confusion, tuned.per_class, found.differences) == ((), (), {}, {})


def test_differences_are_paired(answers: Answers) -> None:
    base = answers(0.5)
    same = score({"base": base, "tuned": base}, LABELS, **SETTINGS).differences["tuned-base"]["macro_f1"]
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    better = list(base)
    wrong = [number for number, one in enumerate(base) if one.answer != one.label][:10]
    for number in wrong:
        better[number] = Prediction(base[number].row_id, base[number].label, base[number].label)
    found = score({"base": base, "tuned": better}, LABELS, **SETTINGS)
    paired = found.differences["tuned-base"]["accuracy"]
    alone = found.variants["base"].metrics["accuracy"]
    assert paired.low > 0
    assert paired.high - paired.low < 0.75 * (alone.high - alone.low)


def test_all_baselines_are_compared(answers: Answers) -> None:
    names = ("base", "few_shot", "tuned", "incumbent")
    found = score({name: answers(0.5, seed=seed) for seed, name in enumerate(names)}, LABELS, **SETTINGS)
    assert list(found.differences) == ["tuned-base", "tuned-few_shot", "tuned-incumbent"]


def test_the_seed_decides_and_json_keeps_everything(answers: Answers) -> None:
    given = {"base": answers(0.3), "tuned": answers(0.8, seed=5)}
    found = score(given, LABELS, **SETTINGS)
    assert found == score(given, LABELS, **SETTINGS)
    assert found != score(given, LABELS, **{**SETTINGS, "seed": 2})
    assert Evaluation.model_validate_json(found.model_dump_json()) == found
    assert Evaluation.model_validate(json.loads(json.dumps(found.model_dump(mode="json"), allow_nan=False))) == found


@pytest.mark.parametrize(
    ("predictions", "labels", "perplexity", "message"),
    [
        ({}, LABELS, None, "nothing to score"),
        ({"tuned": rows(("net", "net"))}, LABELS, None, "at least 2"),
        ({"tuned": rows(("net", "net"), ("games", "net"))}, LABELS, None, "r1.*'games'"),
        ({"a": rows(("net", "x"), ("net", "x")), "b": rows(("net", "x"))}, LABELS, None, "'a' has 2 rows, 'b' has 1"),
        (
            {"a": rows(("net", "x"), ("net", "x")), "b": rows(("net", "x"), ("mail", "x"))},
            LABELS,
            None,
            "part at.*'r1'",
        ),
        ({"a": rows(("x", "x"), ("y", "y"))}, None, {"a": [(1.0, 2)]}, "1 likelihoods for 2 rows"),
        ({"a": rows(("x", "x"), ("y", "y"))}, None, {}, "0 likelihoods for 2 rows"),
        ({"a": rows(("x", "x"), ("y", "y"))}, None, {"a": [(1.0, 2), (float("nan"), 2)]}, "row 1: likelihood nan"),
        ({"a": rows(("x", "x"), ("y", "y"))}, None, {"a": [(1.0, 0), (1.0, 2)]}, "row 0.*0 tokens"),
    ],
)
def test_bad_input_is_one_clear_error(predictions: Any, labels: Any, perplexity: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        score(predictions, labels, **SETTINGS, perplexity=perplexity)


def test_four_hundred_rows_are_scored_in_time(answers: Answers) -> None:
    labels = tuple(f"class {number}" for number in range(10))
    given = {
        name: answers(0.5, num_rows=400, labels=labels, seed=seed)
        for seed, name in enumerate(("base", "few_shot", "tuned", "incumbent"))
    }
    start = time.perf_counter()
    score(given, labels, **{**SETTINGS, "bootstrap_samples": 2000})
    assert time.perf_counter() - start < 10.0  # a second on a machine that does nothing else


def test_the_schema_refuses_what_does_not_fit(answers: Answers) -> None:
    found = score({"tuned": answers(0.5)}, LABELS, **SETTINGS)
    with pytest.raises(ValueError, match="fit the 2 labels"):
        Evaluation.model_validate({**found.model_dump(), "labels": ("net", "mail")})
    with pytest.raises(ValueError, match="low must not be above high"):
        Interval(value=0.0, low=0.2, high=0.1)
    with pytest.raises(ValueError, match="finite"):
        Interval(value=float("nan"), low=0.0, high=0.1)


def test_an_evaluation_that_was_stored_before_is_still_read() -> None:
    one = {"value": 0.5, "low": 0.25, "high": 0.75}
    stored = {
        "schema_version": 1,
        "labels": [],
        "n": 40,
        "variants": {"base": {"metrics": {"rouge_l": one}}, "tuned": {"metrics": {"rouge_l": one}}},
        "differences": {"tuned-base": {"rouge_l": one}},
        "few_shot_k": 5,
        "confidence": 0.95,
        "bootstrap_samples": 1000,
        "seed": 42,
    }
    found = Evaluation.model_validate_json(json.dumps(stored))
    assert found.variants["tuned"].calibration is None
    assert render_report(title="old", evaluation=found)
