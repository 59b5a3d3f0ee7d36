"""What a model said, with enough evidence to compare two engines: token by token, or class by class."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from luthier.precision import Dtype


@dataclass(frozen=True)
class Candidate:
    """One token that the model considered at a position.

    Attributes:
        token_id: Vocabulary index.
        logprob: Natural logarithm of its probability.
    """

    token_id: int
    logprob: float


@dataclass(frozen=True)
class Answer:
    """What greedy decoding gave for one row.

    Attributes:
        row_id: The row's id in its dataset.
        prompt_token_ids: The rendered prompt, as the engine saw it.
        token_ids: Generated tokens, the end-of-sequence token included where it was reached.
        text: The generated tokens decoded without special tokens.
        candidates: For each generated position the two most likely tokens, the better first.
        messages: The conversation that was rendered into the prompt, as the OpenAI API takes it.
        dtype: What the model computed in.
    """

    row_id: str
    prompt_token_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    text: str
    candidates: tuple[tuple[Candidate, Candidate], ...]
    messages: tuple[dict[str, str], ...]
    dtype: Dtype

    @property
    def probability(self) -> float | None:
        """Of exactly these tokens, from the first to the last; None where nothing was generated."""
        if not self.candidates:
            return None
        return math.exp(sum(chosen.logprob for chosen, _ in self.candidates))


@dataclass(frozen=True)
class Classified:
    """What a classifier gave for one row.

    Attributes:
        row_id: The row's id in its dataset.
        text: What was classified.
        scores: Probability of each label.
        dtype: What the model computed in.
    """

    row_id: str
    text: str
    scores: Mapping[str, float]
    dtype: Dtype

    @property
    def label(self) -> str:
        """The likeliest."""
        return max(self.scores, key=self.scores.__getitem__)
