"""Does the endpoint answer as the trained model does?

Two engines that compute in bfloat16 in different orders round differently, so two tokens whose probabilities are all
but equal may change places. Such a near-tie is told from a fault by the gap between the trainer's two best
log-probabilities at the first token that differs, and by the served token being the trainer's second choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from luthier.answers import Answer
from luthier.errors import ServingError
from luthier.serving.client import openai_client
from luthier.serving.endpoint import Endpoint

Outcome = Literal["same", "near-tie", "mismatch"]


@dataclass(frozen=True)
class ParityRow:
    """One compared answer.

    Attributes:
        row_id: The row.
        outcome: Whether and why the answers differ.
        position: First generated token that differs, from 0; None where none does.
        trainer_gap: The trainer's best minus second-best log-probability there, in nats.
        served_gap: The served model's, likewise.
    """

    row_id: str
    outcome: Outcome
    position: int | None = None
    trainer_gap: float | None = None
    served_gap: float | None = None


@dataclass(frozen=True)
class ParityReport:
    """All compared answers.

    Attributes:
        rows: One a row.
        tolerance: Largest gap of a near-tie, in nats.
    """

    rows: tuple[ParityRow, ...]
    tolerance: float

    def count(self, outcome: Outcome) -> int:
        """Rows with an outcome."""
        return sum(row.outcome == outcome for row in self.rows)

    def summary(self) -> str:
        """One line for people."""
        parts = ", ".join(f"{self.count(kind)} {kind}" for kind in ("same", "near-tie", "mismatch"))
        return f"{len(self.rows)} answers: {parts} (near-tie: gap up to {self.tolerance} nats)"

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        counts = {kind: self.count(kind) for kind in ("same", "near-tie", "mismatch")}
        return {**counts, "tolerance": self.tolerance, "rows": [asdict(row) for row in self.rows]}

    def require(self) -> None:
        """Refuse a mismatch.

        Raises:
            ServingError: Names the first row that differs without being a near-tie.
        """
        for row in self.rows:
            if row.outcome == "mismatch":
                raise ServingError(
                    f"parity: the served answer to {row.row_id} differs from the trainer's at token {row.position}, where "
                    f"the trainer's two best are {row.trainer_gap} nats apart (serve.parity_tolerance={self.tolerance}); "
                    "the endpoint does not serve what was trained, so it was stopped."
                )


def check_parity(
    endpoint: Endpoint, model: str, answers: Sequence[Answer], *, tolerance: float, api_key: str
) -> ParityReport:
    """Ask the endpoint what the trainer was asked, greedily and token for token.

    Args:
        endpoint: The endpoint.
        model: Served name of the trained model.
        answers: The trainer's own greedy answers.
        tolerance: Largest gap of a near-tie, in nats.
        api_key: The endpoint's key.
    """
    client = openai_client(endpoint, api_key)
    return ParityReport(tuple(_compare(client, model, answer, tolerance) for answer in answers), tolerance)


def _compare(client: Any, model: str, answer: Answer, tolerance: float) -> ParityRow:
    choice = client.completions.create(
        model=model,
        prompt=list(answer.prompt_token_ids),
        max_tokens=len(answer.token_ids),
        temperature=0.0,
        logprobs=2,
        extra_body={"return_token_ids": True},
    ).choices[0]
    served = list(choice.token_ids)
    position = next(
        (i for i, pair in enumerate(zip(served, answer.token_ids, strict=False)) if pair[0] != pair[1]), None
    )
    if position is None and len(served) == len(answer.token_ids):
        return ParityRow(answer.row_id, "same")
    if position is None:
        return ParityRow(answer.row_id, "mismatch", min(len(served), len(answer.token_ids)))
    first, second = answer.candidates[position]
    gap = first.logprob - second.logprob
    seen = sorted(choice.logprobs.top_logprobs[position].values(), reverse=True)
    served_gap = seen[0] - seen[1] if len(seen) > 1 else None
    tie = gap <= tolerance and served[position] == second.token_id
    return ParityRow(answer.row_id, "near-tie" if tie else "mismatch", position, gap, served_gap)
