"""Figures against hand-computed values and against the libraries."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

from luthier.trainers.evaluation import metrics
from luthier.trainers.evaluation.intervals import class_statistic

TRUTH = np.array([0, 0, 0, 1, 1, 2])
ANSWERS = np.array([0, 0, 1, 1, 3, 2])
"""Three labels; 3 is an answer that is none of them."""


def test_class_figures_by_hand() -> None:
    found = metrics.class_figures(TRUTH, ANSWERS, 3)
    # label 0: precision 2/2, recall 2/3, F1 4/5; label 1: 1/2, 1/2, 1/2; label 2: 1, 1, 1
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert found["precision_macro"] == pytest.approx((1 + 1 / 2 + 1) / 3)
    assert found["recall_macro"] == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert found["macro_f1"] == pytest.approx((4 / 5 + 1 / 2 + 1) / 3)
    assert found["weighted_f1"] == pytest.approx((3 * 4 / 5 + 2 * 1 / 2 + 1) / 6)
    # four hits among five answers that are labels; the sixth is none and costs recall alone
    assert found["precision_micro"] == pytest.approx(4 / 5)
    assert found["recall_micro"] == pytest.approx(4 / 6)
    assert found["micro_f1"] == pytest.approx(2 * 4 / (5 + 6))
    assert found["precision_weighted"] == pytest.approx((3 * 1 + 2 * 1 / 2 + 1) / 6)
    assert found["recall_weighted"] == pytest.approx(4 / 6)


def test_a_label_without_rows_does_not_drag_the_macro_average() -> None:
    found = metrics.class_figures(np.array([0, 0, 1, 1]), np.array([0, 2, 1, 1]), 3)
    # label 2 has no rows; its wrongly given answer costs label 0 a recall of 1/2
    assert found["macro_f1"] == pytest.approx((2 / 3 + 1) / 2)


def test_confusion_and_per_class_by_hand() -> None:
    assert metrics.confusion(TRUTH, ANSWERS, 3) == ((2, 1, 0, 0), (0, 1, 0, 1), (0, 0, 1, 0))
    classes = metrics.per_class(TRUTH, ANSWERS, ("a", "b", "c"))
    assert [c.support for c in classes.values()] == [3, 2, 1]
    assert classes["a"].f1 == pytest.approx(0.8)
    assert metrics.per_class(TRUTH, ANSWERS, ("a", "b", "c", "d"))["d"].support == 0


@pytest.mark.parametrize("num_labels", [2, 3, 12])
@pytest.mark.parametrize("num_rows", [7, 150])
def test_every_resample_equals_scikit_learn(num_labels: int, num_rows: int) -> None:
    generator = np.random.default_rng(num_labels)
    truth = generator.integers(0, num_labels, num_rows)
    answers = np.where(generator.random(num_rows) < 0.5, truth, generator.integers(0, num_labels + 1, num_rows))
    rows = generator.integers(0, num_rows, (40, num_rows))
    found = class_statistic(truth, answers, num_labels)(rows)
    for number, chosen in enumerate(rows):
        mine = {name: values[number] for name, values in found.items()}
        y, p = truth[chosen], answers[chosen]
        expected = {"accuracy": accuracy_score(y, p)}
        for how, labels in {"micro": range(num_labels), "macro": np.unique(y), "weighted": np.unique(y)}.items():
            scores = precision_recall_fscore_support(y, p, labels=labels, average=how, zero_division=0.0)
            expected |= {f"precision_{how}": scores[0], f"recall_{how}": scores[1], f"{how}_f1": scores[2]}
        assert mine == pytest.approx(expected, abs=1e-12)


def test_perplexity_is_weighted_by_tokens() -> None:
    # 4 tokens of log 2 and 1 token of log 32: exp((4 log 2 + log 32) / 5) = 2^(9/5), not the mean of 2 and 32
    found = metrics.perplexity(np.array([4 * math.log(2), math.log(32)]), np.array([4.0, 1.0]))
    assert found == pytest.approx(2 ** (9 / 5))
    assert np.isfinite(metrics.perplexity(np.array([1e6]), np.array([1.0])))
