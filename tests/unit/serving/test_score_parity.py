"""Probabilities of the endpoint beside those of the trainer."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from luthier.answers import Classified
from luthier.errors import ServingError
from luthier.serving.score_parity import Outcome, ScoreReport, compare_scores


def gave(scores: Mapping[str, float]) -> Classified:
    return Classified("rows:1", "a text", scores, "float32")


@pytest.mark.parametrize(
    ("served", "outcome", "deviation"),
    [
        ({"mail": 0.5005, "net": 0.4995}, "same", 0.0005),
        ({"mail": 0.4999, "net": 0.5001}, "near-tie", 0.0001 + 1e-5),
        ({"mail": 0.6, "net": 0.4}, "mismatch", 0.1),
        ({"LABEL_0": 0.5, "LABEL_1": 0.5}, "mismatch", 0.50001),
    ],
)
def test_only_rounding_is_let_pass(served: dict[str, float], outcome: Outcome, deviation: float) -> None:
    row = compare_scores(gave({"mail": 0.50001, "net": 0.49999}), gave(served), 0.001)
    assert row.outcome == outcome
    assert row.deviation == pytest.approx(deviation, abs=2e-5)
    report = ScoreReport((row,), 0.001)
    assert f"1 {outcome}" in report.summary()
    assert report.as_dict()[outcome] == 1
    if outcome == "mismatch":
        with pytest.raises(ServingError, match="does not serve what was trained"):
            report.require()
    else:
        report.require()
