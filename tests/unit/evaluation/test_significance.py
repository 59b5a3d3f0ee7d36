"""McNemar's test and Holm's method against hand-computed values, and how often they cry wolf."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import chi2_contingency

from luthier.trainers.evaluation import Prediction, render_report, score
from luthier.trainers.evaluation.significance import FEW_DISCORDANT, holm, mcnemar, mcnemar_tests


def pair(both: int, gained: int, lost: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    first = np.array([True] * (both + gained) + [False] * (lost + neither))
    second = np.array([True] * both + [False] * gained + [True] * lost + [False] * neither)
    return first, second


def test_few_differing_rows_are_tested_exactly() -> None:
    found = mcnemar(*pair(10, 6, 1, 3))
    assert (found.n, found.gained, found.lost, found.method) == (20, 6, 1, "exact binomial")
    assert found.p_value == pytest.approx(2 * (1 + 7) / 2**7)  # 0 or 1 of 7, both tails
    assert mcnemar(*pair(10, 0, 0, 3)).p_value == 1.0
    assert mcnemar(*pair(0, 3, 3, 0)).p_value == 1.0


def test_many_are_tested_by_chi_squared() -> None:
    assert mcnemar(*pair(0, FEW_DISCORDANT - 1, 0, 0)).method == "exact binomial"
    found = mcnemar(*pair(50, 30, 12, 8))
    assert found.method == "chi-squared with continuity correction"
    # (|30 - 12| - 1)^2 / 42 = 6.881
    assert found.p_value == pytest.approx(0.00871, abs=1e-5)
    assert mcnemar(*pair(0, 20, 20, 0)).p_value == 1.0
    # the same by the library's general test of the folded table: 30 and 12 against 21 each, corrected by half a row each
    assert found.p_value == pytest.approx(
        float(chi2_contingency([[30, 12], [12, 30]], correction=False).pvalue), abs=0.01
    )


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_equal_models_are_told_apart_no_oftener_than_by_the_level(share: float) -> None:
    generator = np.random.default_rng(0)
    found = 0
    for _ in range(400):
        differs = generator.random(200) < share
        better = generator.random(200) < 0.5
        found += mcnemar(differs & better, differs & ~better).p_value < 0.05
    assert found / 400 < 0.07


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_pairs_are_adjusted_within_a_metric() -> None:
    tuned, base = pair(0, 9, 1, 0)
    right = {"tuned": {"accuracy": tuned}, "base": {"accuracy": base}, "few_shot": {"accuracy": tuned}}
    found = mcnemar_tests(right, [("tuned", "base"), ("tuned", "few_shot")])
    assert found["tuned-base"]["accuracy"].p_adjusted == pytest.approx(2 * found["tuned-base"]["accuracy"].p_value)
    assert found["tuned-few_shot"]["accuracy"].p_adjusted == 1.0


def test_an_evaluation_holds_and_tells_them(answers: Callable[..., list[Prediction]]) -> None:
    given = {"base": answers(0.4, seed=1), "tuned": answers(0.9, seed=2)}
    labels = ("net", "mail", "math")
    found = score(given, labels, confidence=0.95, bootstrap_samples=100, seed=0, few_shot_k=0)
    test = found.mcnemar["tuned-base"]["accuracy"]
    gain = found.differences["tuned-base"]["accuracy"].value
    assert gain * found.n == pytest.approx(test.gained - test.lost)
    assert set(found.mcnemar["tuned-base"]) == {"accuracy", "exact_match"}
    page = render_report(title="tested", evaluation=found)
    assert "&lt; 0.001" in page
    assert test.method in page
