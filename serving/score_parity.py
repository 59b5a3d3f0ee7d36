"""Does the endpoint put texts into classes as the trained classifier does?

Both are computed by transformers from the same files, so that probabilities differ by rounding alone: rows are padded
beside other rows. How far they do depends on what is computed in; see :data:`luthier.precision.SCORE_NOISE`.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from luthier.answers import Classified
from luthier.errors import ServingError
from luthier.precision import score_noise
from luthier.serving.client import classify
from luthier.serving.endpoint import Endpoint

Outcome = Literal["same", "near-tie", "mismatch"]


@dataclass(frozen=True)
class ScoreRow:
    """One compared text.

    Attributes:
        row_id: The row.
        outcome: ``same``: the same label. ``near-tie``: another one, of probabilities that are the trainer's all the
            same. ``mismatch``: the probabilities are others.
        deviation: Largest difference of a label's probability.
        trainer_label: The trainer's likeliest.
        served_label: The endpoint's.
    """

    row_id: str
    outcome: Outcome
    deviation: float
    trainer_label: str
    served_label: str


@dataclass(frozen=True)
class ScoreReport:
    """All compared texts.

    Attributes:
        rows: One a row.
        tolerance: Largest difference of a probability that is rounding.
    """

    rows: tuple[ScoreRow, ...]
    tolerance: float

    @property
    def deviation(self) -> float:
        """Largest of the rows'."""
        return max((row.deviation for row in self.rows), default=0.0)

    def count(self, outcome: Outcome) -> int:
        """Rows with an outcome."""
        return sum(row.outcome == outcome for row in self.rows)

    def summary(self) -> str:
        """One line for people."""
        parts = ", ".join(f"{self.count(kind)} {kind}" for kind in get_args(Outcome) if self.count(kind))
        return f"{len(self.rows)} texts: {parts or 'none'}; probabilities agree within {self.deviation:.1g}"

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        counts = {kind: self.count(kind) for kind in get_args(Outcome)}
        rows = [asdict(row) for row in self.rows]
        return {"of": "scores", **counts, "tolerance": self.tolerance, "deviation": self.deviation, "rows": rows}

    def require(self) -> None:
        """Refuse a difference that is no rounding.

        Raises:
            ServingError: Names the first such row.
        """
        for row in self.rows:
            if row.outcome == "mismatch":
                raise ServingError(
                    f"parity: a probability of {row.row_id} differs by {row.deviation:.3g} from the trainer's, more than "
                    f"serve.parity_tolerance allows ({self.tolerance}); the trainer's label is {row.trainer_label!r}, the "
                    f"endpoint's {row.served_label!r}; the endpoint does not serve what was trained, so it was stopped."
                )


def check_scores(
    endpoint: Endpoint,
    model: str,
    trained: Sequence[Classified],
    *,
    max_length: int,
    tolerance: float | None,
    api_key: str,
    concurrency: int = 8,
) -> ScoreReport:
    """Have the endpoint classify what the trainer classified, and compare label for label.

    Args:
        endpoint: The endpoint.
        model: Served name of the classifier.
        trained: What the trainer gave.
        max_length: Tokens that the trainer read of each text.
        tolerance: Largest difference of a probability; None: the rounding of what is computed in.
        api_key: The endpoint's key.
        concurrency: Requests at a time, which the endpoint computes together.

    Raises:
        ServingError: A request failed.
    """
    limit = tolerance or score_noise(endpoint.dtype, *(one.dtype for one in trained))

    def row(one: Classified) -> ScoreRow:
        (served,) = classify(endpoint, model, [one.text], api_key, cut_to=max_length)
        return compare_scores(one, Classified(one.row_id, one.text, served, endpoint.dtype), limit)

    with ThreadPoolExecutor(max_workers=concurrency) as pool:
        return ScoreReport(tuple(pool.map(row, trained)), limit)


def compare_scores(trained: Classified, served: Classified, tolerance: float) -> ScoreRow:
    """One row's verdict; a label that one side does not know has the probability 0 there."""
    labels = {*trained.scores, *served.scores}
    deviation = max(abs(trained.scores.get(label, 0.0) - served.scores.get(label, 0.0)) for label in labels)
    same_label = trained.label == served.label
    outcome: Outcome = "mismatch" if deviation > tolerance else "same" if same_label else "near-tie"
    return ScoreRow(trained.row_id, outcome, deviation, trained.label, served.label)
