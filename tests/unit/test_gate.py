"""What passes the gate and what does not."""

from __future__ import annotations

import math
from typing import Any

import pytest

from luthier.config.judge import GateConfig
from luthier.evaluation_schema import Evaluation, Interval, VariantScores
from luthier.gate import GateDecision, decide, gate_metric, hold_against_stored


def evaluation(
    gains: dict[str, tuple[float, float]], *, value: float = 0.7, metric: str = "rouge_l", n: int = 400, **other: Any
) -> Evaluation:
    """Tuned against each baseline, with the interval of its gain."""
    scores = VariantScores(metrics={metric: Interval(value=value, low=value - 0.05, high=value + 0.05)})
    return Evaluation.model_validate(
        {
            "labels": (),
            "n": n,
            "variants": {"tuned": scores, **dict.fromkeys(gains, scores)},
            "differences": {
                f"tuned-{name}": {metric: Interval(value=(low + high) / 2, low=low, high=high)}
                for name, (low, high) in gains.items()
            },
            "few_shot_k": 5,
            "confidence": 0.95,
            "bootstrap_samples": 100,
            "seed": 0,
            **other,
        }
    )


def gate(**settings: Any) -> GateConfig:
    return GateConfig.model_validate({"metric": "rouge_l", "against": ("base", "few_shot"), **settings})


def failed(decision: GateDecision) -> list[str]:
    assert decision.passed == (not any(not check.passed for check in decision.checks))
    return [check.name for check in decision.checks if not check.passed]


def test_a_gain_over_all_baselines_passes() -> None:
    decision = decide(evaluation({"base": (0.1, 0.3), "few_shot": (0.01, 0.2)}), gate())
    assert decision.passed
    assert [check.name for check in decision.checks] == ["rows", "rouge_l tuned-base", "rouge_l tuned-few_shot"]
    assert (decision.checks[2].figure, decision.checks[2].limit) == (0.01, 0.0)
    assert decision.metric == "rouge_l"


@pytest.mark.parametrize("gain", [(-0.01, 0.3), (0.0, 0.3), (-0.3, -0.1)])
def test_an_interval_that_reaches_zero_is_refused(gain: tuple[float, float]) -> None:
    assert failed(decide(evaluation({"base": (0.1, 0.3), "few_shot": gain}), gate())) == ["rouge_l tuned-few_shot"]


def test_min_delta_moves_the_bound() -> None:
    found = evaluation({"base": (0.1, 0.3), "few_shot": (0.04, 0.2)})
    assert decide(found, gate(min_delta=0.03)).passed
    assert failed(decide(found, gate(min_delta=0.05))) == ["rouge_l tuned-few_shot"]
    assert len(failed(decide(found, gate(min_delta=0.1)))) == 2


def test_min_value_is_of_tuned() -> None:
    found = evaluation({"base": (0.1, 0.3)}, value=0.7)
    assert decide(found, gate(against=("base",), min_value=0.7)).passed
    assert failed(decide(found, gate(against=("base",), min_value=0.71))) == ["rouge_l tuned"]
    assert failed(decide(found, gate(against=(), min_value=0.71))) == ["rouge_l tuned"]


def test_a_missing_baseline_is_refused_but_a_missing_incumbent_is_skipped() -> None:
    decision = decide(evaluation({"base": (0.1, 0.3)}), gate(against=("base", "few_shot", "incumbent")))
    assert failed(decision) == ["rouge_l tuned-few_shot"]
    assert "evaluate.few_shot_k" in decision.checks[2].reason
    skipped = decision.checks[3]
    assert (skipped.passed, skipped.figure) == (True, None)
    assert skipped.reason.startswith("skipped")


@pytest.mark.parametrize(("difference", "passes"), [((-0.05, 0.05), True), ((-0.1, 0.0), True), ((-0.1, -0.01), False)])
def test_an_incumbent_is_kept_only_from_what_is_worse(difference: tuple[float, float], passes: bool) -> None:
    found = evaluation({"base": (0.1, 0.3), "incumbent": difference})
    decision = decide(found, gate(against=("base", "incumbent"), min_delta=0.05))
    assert failed(decision) == ([] if passes else ["rouge_l tuned-incumbent"])
    assert ("no worse by more than chance" in decision.checks[-1].reason) == passes
    assert (decision.checks[-1].figure, decision.checks[-1].limit) == (difference[1], 0.0)


def test_the_metric_follows_the_data_unless_it_is_set() -> None:
    free_text = evaluation({"base": (0.1, 0.3)})
    assert decide(free_text, gate(metric=None, against=("base",))).metric == "rouge_l"
    assert decide(free_text, gate(metric=None, against=("base",))).passed
    assert gate_metric(gate(metric=None), labelled=True) == "macro_f1"
    assert gate_metric(gate(metric="accuracy"), labelled=True) == "accuracy"


@pytest.mark.parametrize(("value", "passes"), [(0.70, True), (0.59, True), (0.58, False)])
def test_stored_evaluations_are_held_side_by_side(value: float, passes: bool) -> None:
    champion = evaluation({"base": (0.1, 0.3)}, value=0.685)
    check = hold_against_stored(evaluation({"base": (0.1, 0.3)}, value=value), champion, gate())
    assert check.passed == passes
    other_split = evaluation({"base": (0.1, 0.3)}, value=0.9, n=40)
    assert not hold_against_stored(other_split, champion, gate()).passed
    untuned = champion.model_copy(update={"variants": {"base": champion.variants["base"]}})
    assert not hold_against_stored(champion, untuned, gate()).passed


def test_a_missing_metric_variant_or_difference_is_refused() -> None:
    found = evaluation({"base": (0.1, 0.3)})
    decision = decide(found, gate(metric="macro_f1"))
    assert failed(decision) == ["macro_f1"]
    assert "rouge_l" in decision.checks[0].reason
    only_base = found.model_copy(update={"variants": {"base": found.variants["base"]}})
    assert failed(decide(only_base, gate())) == ["tuned"]
    unpaired = found.model_copy(update={"differences": {}})
    assert failed(decide(unpaired, gate(against=("base",)))) == ["rouge_l tuned-base"]


@pytest.mark.parametrize(("confidence", "least"), [(0.95, 6), (0.9, 5), (0.99, 8)])
def test_too_few_rows_show_nothing(confidence: float, least: int) -> None:
    for n in (least - 1, least):
        found = evaluation({"base": (0.9, 1.0)}, n=n, confidence=confidence)
        assert decide(found, gate(against=("base",))).passed == (n == least)
    assert math.ldexp(1.0, -least) <= (1 - confidence) / 2 < math.ldexp(1.0, 1 - least)


def test_a_decision_survives_json() -> None:
    decision = decide(evaluation({"base": (0.1, 0.3)}), gate())
    assert GateDecision.model_validate_json(decision.model_dump_json()) == decision
