"""Does the endpoint answer as the trained model does?

The endpoint is asked with the same messages, so that its template and tokenizer are compared too. Two engines add the
same products in different orders and round differently, so two tokens whose probabilities are all but equal may change
places. Such a near-tie is told from a fault by the gap between the trainer's two best log-probabilities at the first
token that differs, and by the served token being the trainer's second choice. How far sound engines differ depends on
what they compute in; see :data:`luthier.precision.ENGINE_NOISE`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from luthier.answers import Answer, Candidate
from luthier.errors import ServingError
from luthier.precision import engine_noise
from luthier.serving.client import openai_client, told_as_serving_error
from luthier.serving.endpoint import Endpoint

Outcome = Literal["same", "near-tie", "mismatch", "other-prompt"]

NUM_ALTERNATIVES = 5
"""Tokens that the endpoint is asked to rate at each position."""

_TOKEN_ID = "token_id:"
"""How vLLM writes a token that is told by its id."""


@dataclass(frozen=True)
class Served:
    """What the endpoint answered.

    Attributes:
        prompt_token_ids: The prompt, as the server rendered and tokenised it.
        token_ids: Generated tokens.
        candidates: For each generated position its most likely tokens, the best first.
        first_token_s: Seconds to the first token.
        total_s: Seconds to the last.
    """

    prompt_token_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    candidates: tuple[tuple[Candidate, ...], ...]
    first_token_s: float = 0.0
    total_s: float = 0.0

    @property
    def inter_token_ms(self) -> float | None:
        """Milliseconds from one token to the next, on average; None: there are fewer than two."""
        gaps = len(self.token_ids) - 1
        return (self.total_s - self.first_token_s) * 1000.0 / gaps if gaps > 0 else None


@dataclass(frozen=True)
class ParityRow:
    """One compared answer.

    Attributes:
        row_id: The row.
        outcome: Whether and why the answers differ.
        deviation: Largest difference between both sides' log-probabilities of a token, in nats, over the tokens before
            any difference; None where there are none.
        position: First generated token that differs, from 0, or first prompt token where the prompts do; None where
            nothing differs.
        trainer_gap: The trainer's best minus second-best log-probability there, in nats.
        served_gap: The served model's, likewise.
        trainer_top: The trainer's best tokens there with their log-probabilities, the best first.
        served_top: The served model's, likewise.
        first_token_s: Seconds until the endpoint told the first token.
        inter_token_ms: Milliseconds from one token to the next, on average; None: it told fewer than two.
    """

    row_id: str
    outcome: Outcome
    deviation: float | None = None
    position: int | None = None
    trainer_gap: float | None = None
    served_gap: float | None = None
    trainer_top: tuple[Candidate, ...] = ()
    served_top: tuple[Candidate, ...] = ()
    first_token_s: float = 0.0
    inter_token_ms: float | None = None


@dataclass(frozen=True)
class ParityReport:
    """All compared answers.

    Attributes:
        rows: One a row.
        tolerance: Largest gap of a near-tie, in nats.
    """

    rows: tuple[ParityRow, ...]
    tolerance: float

    @property
    def deviation(self) -> float | None:
        """Largest of the rows'."""
        return max((row.deviation for row in self.rows if row.deviation is not None), default=None)

    def count(self, outcome: Outcome) -> int:
        """Rows with an outcome."""
        return sum(row.outcome == outcome for row in self.rows)

    def summary(self) -> str:
        """One line for people."""
        counts = ((self.count(kind), kind) for kind in get_args(Outcome))
        parts = ", ".join(f"{number} {kind}" for number, kind in counts if number)
        apart = "" if self.deviation is None else f"; log-probabilities agree within {self.deviation:.1g} nats"
        return f"{len(self.rows)} answers: {parts or 'none'} (near-tie: gap up to {self.tolerance} nats){apart}"

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        counts = {kind: self.count(kind) for kind in get_args(Outcome)}
        rows = [asdict(row) for row in self.rows]
        return {**counts, "tolerance": self.tolerance, "deviation": self.deviation, "rows": rows}

    def require(self) -> None:
        """Refuse a difference that is not a near-tie.

        Raises:
            ServingError: Names the first such row, with what both sides thought at the token where they part.
        """
        for row in self.rows:
            if row.outcome == "other-prompt":
                raise ServingError(
                    f"parity: the endpoint renders the prompt of {row.row_id} to other tokens than the trainer, from "
                    f"token {row.position} on; its tokenizer or chat template is not the one that was trained with, so "
                    "it was stopped."
                )
            if row.outcome == "mismatch":
                raise ServingError(
                    f"parity: the served answer to {row.row_id} differs from the trainer's at token {row.position}: the "
                    f"trainer's best tokens are {_told(row.trainer_top)}, the endpoint's {_told(row.served_top)}, which "
                    f"is no near-tie (serve.parity_tolerance: {self.tolerance} nats); the endpoint does not serve what "
                    "was trained, so it was stopped."
                )


def check_parity(
    endpoint: Endpoint,
    model: str,
    answers: Sequence[Answer],
    *,
    tolerance: float | None,
    api_key: str,
    concurrency: int = 8,
) -> ParityReport:
    """Ask the endpoint what the trainer was asked, greedily, and compare token for token.

    Args:
        endpoint: The endpoint.
        model: Served name of the trained model.
        answers: The trainer's own greedy answers.
        tolerance: Largest gap of a near-tie, in nats; None: the noise between engines of these types.
        api_key: The endpoint's key.
        concurrency: Requests at a time, which the engine decodes together.

    Raises:
        ServingError: A request failed.
    """
    client = openai_client(endpoint, api_key)
    limit = tolerance or engine_noise(endpoint.dtype, *(answer.dtype for answer in answers))

    def row(answer: Answer) -> ParityRow:
        with told_as_serving_error(f"parity: the request for {answer.row_id}"):
            served = served_answer(client, model, answer)
        found = compare(answer, served, limit)
        return replace(found, first_token_s=served.first_token_s, inter_token_ms=served.inter_token_ms)

    with ThreadPoolExecutor(max_workers=concurrency) as pool:
        return ParityReport(tuple(pool.map(row, answers)), limit)


def served_answer(client: Any, model: str, answer: Answer) -> Served:
    """The endpoint's answer to the same messages, no longer than the trainer's, streamed."""
    began = time.monotonic()
    stream = client.chat.completions.create(
        model=model,
        messages=list(answer.messages),
        max_tokens=len(answer.token_ids),
        temperature=0.0,
        logprobs=True,
        top_logprobs=NUM_ALTERNATIVES,
        stream=True,
        extra_body={"return_token_ids": True, "return_tokens_as_token_ids": True},
    )
    prompt: list[int] = []
    told: list[Any] = []
    first_s = total_s = 0.0
    for chunk in stream:
        prompt = prompt or getattr(chunk, "prompt_token_ids", None) or []
        pieces = [choice for choice in chunk.choices if getattr(choice, "token_ids", None)]
        if pieces:
            total_s = time.monotonic() - began
            first_s = first_s or total_s
        told += pieces
    candidates = tuple(
        tuple(Candidate(int(one.token.removeprefix(_TOKEN_ID)), one.logprob) for one in position.top_logprobs)
        for piece in told
        for position in piece.logprobs.content
    )
    token_ids = tuple(token for piece in told for token in piece.token_ids)
    return Served(tuple(prompt), token_ids, candidates, first_s, total_s)


def compare(answer: Answer, served: Served, tolerance: float) -> ParityRow:
    """One row's verdict: the prompts first, as another prompt explains any other answer.

    Args:
        answer: The trainer's answer.
        served: The endpoint's.
        tolerance: Largest gap of a near-tie, in nats.
    """
    parted = _parting(answer.prompt_token_ids, served.prompt_token_ids)
    if parted is not None:
        return ParityRow(answer.row_id, "other-prompt", position=parted)
    position = _parting(answer.token_ids, served.token_ids)
    deviation = _deviation(answer, served, len(answer.token_ids) if position is None else position)
    if position is None:
        return ParityRow(answer.row_id, "same", deviation)
    trainer_top: tuple[Candidate, ...] = answer.candidates[position] if position < len(answer.candidates) else ()
    served_top = served.candidates[position] if position < len(served.candidates) else ()
    chosen = served.token_ids[position] if position < len(served.token_ids) else None
    # Of tokens that are exactly as good, the trainer may have chosen another than the one that is told first.
    near = {one.token_id for one in trainer_top if trainer_top[0].logprob - one.logprob <= tolerance}
    outcome: Outcome = "near-tie" if chosen in near else "mismatch"
    gaps = _gap(trainer_top), _gap(served_top)
    return ParityRow(answer.row_id, outcome, deviation, position, *gaps, trainer_top, served_top)


def _parting(ours: Sequence[int], theirs: Sequence[int]) -> int | None:
    """Where two sequences part; None: they are the same."""
    pairs = enumerate(zip(ours, theirs, strict=False))
    shorter = min(len(ours), len(theirs)) if len(ours) != len(theirs) else None
    return next((index for index, (one, other) in pairs if one != other), shorter)


def _deviation(answer: Answer, served: Served, length: int) -> float | None:
    """Largest difference of a log-probability over the first ``length`` tokens, where both sides told it."""
    differences = (
        abs(ours.logprob - theirs.logprob)
        for best, rated in zip(answer.candidates[:length], served.candidates[:length], strict=True)
        for ours in best
        for theirs in rated
        if ours.token_id == theirs.token_id
    )
    return max(differences, default=None)


def _gap(top: Sequence[Candidate]) -> float | None:
    return top[0].logprob - top[1].logprob if len(top) > 1 else None


def _told(top: Sequence[Candidate]) -> str:
    return ", ".join(f"{one.token_id} ({one.logprob:.3f})" for one in top[:2]) or "none"
