"""Whether a model is right as often as it is sure.

Shape legend: R resamples, N rows, K bins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from luthier.evaluation_parts import Calibration, CalibrationBin
from luthier.trainers.evaluation.metrics import FloatArray, IntArray
from luthier.trainers.evaluation.predictions import Prediction

NUM_BINS = 10
"""Of equal width. Guo et al. (2017) take 15 for thousands of rows; test splits here are mostly smaller."""


@dataclass(frozen=True)
class Calibrated:
    """How sure one variant was of each of its answers, and how that came out.

    Attributes:
        of: What its probabilities are.
        sure_N: Probability of the answered label.
        right_N: 1 where the answer was right.
        brier_N: Brier score of each row (Brier 1950).
    """

    of: Literal["class probabilities", "answered tokens"]
    sure_N: FloatArray
    right_N: FloatArray
    brier_N: FloatArray

    @property
    def brier_name(self) -> str:
        """Which of the two Brier scores it is."""
        return "brier" if self.of == "class probabilities" else "brier_answered"

    def values(self) -> dict[str, float]:
        """The expected calibration error (Naeini et al. 2015) and the Brier score of all rows."""
        everything_1N = np.arange(len(self.sure_N))[None, :]
        return {name: float(values_R[0]) for name, values_R in self.statistic(everything_1N).items()}

    def statistic(self, rows_RN: IntArray) -> dict[str, FloatArray]:
        """The same for every resample."""
        num_resamples, num_rows = rows_RN.shape
        places_RN = self._bin_N[rows_RN] + np.arange(num_resamples)[:, None] * NUM_BINS
        gaps = np.bincount(
            places_RN.ravel(), (self.right_N - self.sure_N)[rows_RN].ravel(), minlength=num_resamples * NUM_BINS
        )
        ece_R: FloatArray = np.abs(gaps.reshape(num_resamples, NUM_BINS)).sum(axis=1) / num_rows
        return {"ece": ece_R, self.brier_name: self.brier_N[rows_RN].mean(axis=1)}

    def table(self) -> Calibration:
        """The bins."""
        return Calibration(of=self.of, bins=tuple(self._bin(number) for number in range(NUM_BINS)))

    def _bin(self, number: int) -> CalibrationBin:
        inside_N = self._bin_N == number
        n = int(inside_N.sum())
        return CalibrationBin(
            low=number / NUM_BINS,
            high=(number + 1) / NUM_BINS,
            n=n,
            confidence=float(self.sure_N[inside_N].mean()) if n else 0.0,
            accuracy=float(self.right_N[inside_N].mean()) if n else 0.0,
        )

    @property
    def _bin_N(self) -> IntArray:
        return np.minimum((self.sure_N * NUM_BINS).astype(np.int64), NUM_BINS - 1)


def calibrated(rows: Sequence[Prediction], truth_N: IntArray, answers_N: IntArray) -> Calibrated | None:
    """What the probabilities of a variant are worth; None where one of them is unknown.

    Args:
        rows: Its answers.
        truth_N: Label index of each row.
        answers_N: Answered label index of each row.
    """
    right_N = (truth_N == answers_N).astype(np.float64)
    scores = [row.scores for row in rows if row.scores is not None]
    if len(scores) == len(rows):
        sure_N = np.array([max(one.values()) for one in scores])
        brier_N = np.array([_brier(one, row.label) for one, row in zip(scores, rows, strict=True)])
        return Calibrated("class probabilities", sure_N, right_N, brier_N)
    known = [row.probability for row in rows if row.probability is not None]
    if len(known) < len(rows):
        return None
    sure_N = np.clip(np.array(known), 0.0, 1.0)
    return Calibrated("answered tokens", sure_N, right_N, (sure_N - right_N) ** 2)


def _brier(scores: Mapping[str, float], label: str) -> float:
    """Squared distance of the probabilities from the truth; a label that the model does not know has none."""
    return sum(share * share for share in scores.values()) - 2.0 * scores.get(label, 0.0) + 1.0
