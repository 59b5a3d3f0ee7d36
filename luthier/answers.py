"""A model's greedy answer with enough evidence to compare two engines token by token."""

from __future__ import annotations

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
