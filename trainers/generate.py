"""Batched greedy answers, with the evidence that a comparison with another engine needs.

Shape legend: B rows, S prompt length, T generated tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from luthier.answers import Answer, Candidate, Classified
from luthier.config.model import ModelConfig
from luthier.precision import Dtype
from luthier.rows import Message, Row
from luthier.trainers.batches import collate
from luthier.trainers.loss import SumLoss
from luthier.trainers.model import load_trained
from luthier.trainers.prompts import (
    MIN_SHARED_TOKENS,
    PromptBatch,
    answer_greedily,
    batch_prompts,
    by_length,
    common_beginning,
    continue_with,
    plain_cache,
    prefill,
    widened,
)
from luthier.trainers.tokens import IGNORE, ChatTokenizer, Encoded


@dataclass(frozen=True)
class Question:
    """A row to answer.

    Attributes:
        row: The row; its last turn is the reference answer.
        prompt: What the model is shown: the row's own prompt, or that with solved examples before it.
    """

    row: Row
    prompt: tuple[Message, ...]


@dataclass(frozen=True)
class Scored:
    """A generated answer, and how likely the reference was.

    Attributes:
        answer: What the model said.
        nll: Summed -log p of the reference answer's tokens, in nats.
        num_tokens: Tokens of the reference answer.
        classified: What a classifier gave; None: the model is none.
        seconds: Its share of the time that its batch took, reading the reference included; None: not measured.
    """

    answer: Answer
    nll: float
    num_tokens: int
    classified: Classified | None = None
    seconds: float | None = None


def dtype_name(dtype: torch.dtype) -> Dtype:
    """What an answer's record calls the type that a model computed in."""
    return "bfloat16" if dtype == torch.bfloat16 else "float32"


class Generator:
    """A model that answers.

    Args:
        base_model_dir: The pretrained model.
        model: How to load it.
        weights_dir: Holds ``adapter/`` or ``model/`` of a trained model; None: the base itself.
        dtype: Compute type.
        device: Where to run.
    """

    def __init__(
        self,
        base_model_dir: Path,
        model: ModelConfig,
        weights_dir: Path | None,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.tokenizer = ChatTokenizer(base_model_dir)
        self.model: Any = load_trained(base_model_dir, model, weights_dir, dtype).to(device).eval()
        self.device = device
        self._dtype = dtype_name(dtype)
        self._common: tuple[tuple[int, ...], Any] = ((), None)

    @torch.inference_mode()
    def score(
        self,
        questions: Sequence[Question],
        *,
        max_new_tokens: int,
        batch_size: int,
        on_batch: Callable[[int], None] = lambda done: None,
    ) -> list[Scored]:
        """Answer greedily and measure the reference answers; results are in the order of the questions.

        Args:
            questions: What to answer.
            max_new_tokens: Longest answer.
            batch_size: Rows at a time.
            on_batch: Called with the number of rows done so far.
        """
        prompts = [self.tokenizer.prompt_ids(question.prompt) for question in questions]
        num_shared, cache = self._common_cache(prompts)
        results: dict[int, Scored] = {}
        for chosen in by_length(prompts, batch_size):
            batch = batch_prompts([prompts[index] for index in chosen], num_shared, self.tokenizer.pad_id)
            scored = self._score_batch(
                [questions[index] for index in chosen], batch.to(self.device), cache, max_new_tokens
            )
            results |= dict(zip(chosen, scored, strict=True))
            on_batch(len(results))
        return [results[index] for index in range(len(questions))]

    def _common_cache(self, prompts: Sequence[tuple[int, ...]]) -> tuple[int, Any]:
        """How many tokens the prompts share, and a cache that holds these; that of an earlier call where it does as well."""
        num_common = common_beginning(prompts)
        tokens, cache = self._common
        begins_all = all(len(prompt) > len(tokens) and prompt[: len(tokens)] == tokens for prompt in prompts)
        if tokens and begins_all and num_common < len(tokens) + MIN_SHARED_TOKENS:
            return len(tokens), cache
        cache = plain_cache(self.model)
        tokens = () if cache is None else prompts[0][:num_common]
        if tokens:
            prefill(self.model, cache, tokens, self.device)
        self._common = (tokens, cache)
        return len(tokens), cache

    def _score_batch(
        self, questions: Sequence[Question], prompts: PromptBatch, shared: Any, max_new_tokens: int
    ) -> list[Scored]:
        """Answer one batch, then measure the reference answers on the same keys and values."""
        cache = None if shared is None else widened(shared, len(questions))
        answers = self._generate(questions, prompts, cache, max_new_tokens)
        references = [self.tokenizer.answer_ids(_solved(question))[1] for question in questions]
        if cache is None:
            losses = self._whole_losses(answers, references)
        else:
            losses = continue_with(self.model, cache, prompts, references, self.tokenizer.pad_id)
        return [Scored(answer, nll, count) for answer, (nll, count) in zip(answers, losses, strict=True)]

    def _generate(
        self, questions: Sequence[Question], prompts: PromptBatch, cache: Any, max_new_tokens: int
    ) -> list[Answer]:
        witness = _TopTwo()
        tokens_BT = answer_greedily(self.model, self.tokenizer, prompts, cache, max_new_tokens, [witness])
        return [
            self._answer(question, prompts.row(index), tokens_BT[index].tolist(), witness.of_row(index))
            for index, question in enumerate(questions)
        ]

    def _answer(
        self, question: Question, prompt: tuple[int, ...], tokens: list[int], seen: list[tuple[Candidate, Candidate]]
    ) -> Answer:
        stops = set(self.tokenizer.stop_ids)
        length = next((place + 1 for place, token in enumerate(tokens) if token in stops), len(tokens))
        said = tuple(tokens[:length])
        text = self.tokenizer.decode(said)
        asked = tuple(message.as_dict() for message in question.prompt)
        return Answer(question.row.row_id, prompt, said, text, tuple(seen[:length]), asked, self._dtype)

    def _whole_losses(self, answers: Sequence[Answer], references: Sequence[Sequence[int]]) -> list[tuple[float, int]]:
        """Reference losses of a model whose cache can't be cut back: prompts and answers in one pass."""
        encoded = [
            Encoded(
                answer.row_id,
                (*answer.prompt_token_ids, *reference),
                (*[IGNORE] * len(answer.prompt_token_ids), *reference),
            )
            for answer, reference in zip(answers, references, strict=True)
        ]
        return SumLoss(self.model).row_losses(collate(encoded, self.tokenizer.pad_id).to(self.device))


def _solved(question: Question) -> Row:
    """The question as it was shown, with the reference answer."""
    return Row(question.row.row_id, (*question.prompt, question.row.messages[-1]))


class _TopTwo:
    """A logits processor that changes nothing and remembers the two best tokens of every position."""

    def __init__(self) -> None:
        self._seen: list[tuple[list[list[int]], list[list[float]]]] = []

    def __call__(self, input_ids_BS: torch.Tensor, scores_BV: torch.Tensor) -> torch.Tensor:
        best = torch.log_softmax(scores_BV.float(), dim=-1).topk(2, dim=-1)
        self._seen.append((best.indices.tolist(), best.values.tolist()))
        return scores_BV

    def of_row(self, index: int) -> list[tuple[Candidate, Candidate]]:
        """The pairs of one row, position by position."""
        pairs = []
        for tokens, logprobs in self._seen:
            first, second = (Candidate(t, p) for t, p in zip(tokens[index], logprobs[index], strict=True))
            pairs.append((first, second))
        return pairs
