"""Whether the calibration figures are those of hand-made probabilities."""

from __future__ import annotations

import numpy as np
import pytest

from luthier.trainers.evaluation import Prediction, score
from luthier.trainers.evaluation.calibration import calibrated

LABELS = ("a", "b", "c")


def classified(*rows: tuple[str, dict[str, float]]) -> list[Prediction]:
    return [
        Prediction(f"r{number}", label, max(scores, key=scores.__getitem__), scores=scores)
        for number, (label, scores) in enumerate(rows)
    ]


def test_class_probabilities_by_hand() -> None:
    rows = classified(
        ("a", {"a": 0.9, "b": 0.1}),
        ("b", {"a": 0.95, "b": 0.05}),
        ("a", {"a": 0.6, "b": 0.4}),
        ("c", {"a": 0.5, "b": 0.5}),  # a label that the model does not know
    )
    found = calibrated(rows, np.array([0, 1, 0, 2]), np.array([0, 0, 0, 0]))
    assert found is not None
    values = found.values()
    # bins of 0.9: one of two right, mean 0.925; of 0.6: right; of 0.5: wrong
    assert values["ece"] == pytest.approx((2 * (0.925 - 0.5) + (1 - 0.6) + (0.5 - 0)) / 4)
    briers = (0.1**2 * 2, 0.95**2 * 2, 0.4**2 * 2, 0.5**2 * 2 + 1)
    assert values["brier"] == pytest.approx(sum(briers) / 4)
    table = found.table()
    assert sum(one.n for one in table.bins) == 4
    assert (table.bins[9].n, table.bins[9].accuracy) == (2, 0.5)
    assert table.bins[9].confidence == pytest.approx(0.925)
    assert (table.bins[0].n, table.bins[0].confidence) == (0, 0.0)


def test_resamples_equal_what_is_computed_from_their_rows() -> None:
    generator = np.random.default_rng(0)
    truth, answers = generator.integers(0, 3, 60), generator.integers(0, 3, 60)
    rows = [
        Prediction(f"r{i}", LABELS[t], LABELS[a], probability=float(generator.random()))
        for i, (t, a) in enumerate(zip(truth, answers, strict=True))
    ]
    found = calibrated(rows, truth, answers)
    assert found is not None
    chosen = generator.integers(0, 60, (5, 60))
    resampled = found.statistic(chosen)
    for number, places in enumerate(chosen):
        alone = calibrated([rows[i] for i in places], truth[places], answers[places])
        assert alone is not None
        assert {name: values[number] for name, values in resampled.items()} == pytest.approx(alone.values())


def test_probabilities_that_hold_have_no_error_and_those_too_sure_have() -> None:
    generator = np.random.default_rng(1)
    sure = generator.random(4000)
    right = generator.random(4000) < sure
    for claimed, most, least in ((sure, 0.03, 0.0), (np.sqrt(sure), 0.3, 0.12)):
        rows = [
            Prediction(f"r{i}", "a", "a" if hit else "b", probability=float(p))
            for i, (hit, p) in enumerate(zip(right, claimed, strict=True))
        ]
        found = calibrated(rows, np.zeros(4000, dtype=np.int64), np.where(right, 0, 1))
        assert found is not None
        assert least <= found.values()["ece"] < most


def test_it_is_left_out_where_a_probability_is_unknown() -> None:
    rows = [Prediction("r0", "a", "a", probability=0.5), Prediction("r1", "b", "b")]
    assert calibrated(rows, np.array([0, 1]), np.array([0, 1])) is None
    sure = classified(("a", {"a": 0.9, "b": 0.1}), ("b", {"a": 0.2, "b": 0.8}), ("b", {"a": 0.3, "b": 0.7}))
    guessed = [Prediction(row.row_id, row.label, "b") for row in sure]
    found = score(
        {"majority": guessed, "tuned": sure}, LABELS, confidence=0.95, bootstrap_samples=100, seed=0, few_shot_k=0
    )
    assert found.variants["majority"].calibration is None
    assert "ece" not in found.differences["tuned-majority"]
    assert found.variants["tuned"].calibration is not None
    assert found.variants["tuned"].calibration.of == "class probabilities"
    assert {"ece", "brier"} <= set(found.variants["tuned"].metrics)
