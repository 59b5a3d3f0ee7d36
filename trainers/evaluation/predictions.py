"""One variant's answer to one row, as it is scored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Prediction:
    """One variant's answer to one row.

    Attributes:
        row_id: The row's id in its dataset.
        label: The true label, or the reference answer where the data has no labels.
        answer: What the model said, whole.
        scores: Probability of each label, of a classifier.
        probability: Of exactly the tokens of the answer; None: unknown.
        row: What a user's own metric is told of the row.
    """

    row_id: str
    label: str
    answer: str
    scores: Mapping[str, float] | None = None
    probability: float | None = None
    row: Mapping[str, Any] = field(default_factory=dict)
