"""Made-up answers of known quality."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from luthier.trainers.evaluation import Prediction

Answers = Callable[..., list[Prediction]]


@pytest.fixture
def answers() -> Answers:
    """Makes ``num_rows`` answers of which about ``accuracy`` are right; wrong ones are other labels or none."""

    def make(
        accuracy: float, *, num_rows: int = 120, labels: tuple[str, ...] = ("net", "mail", "math"), seed: int = 0
    ) -> list[Prediction]:
        generator = random.Random(seed)
        rows = []
        for number in range(num_rows):
            label = labels[number % len(labels)]
            wrong = generator.choice([*labels, "no idea"])
            rows.append(
                Prediction(f"test.jsonl:{number + 1}", label, label if generator.random() < accuracy else wrong)
            )
        return rows

    return make
