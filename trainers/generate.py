"""Batched greedy answers, with the evidence that a comparison with another engine needs.

Shape legend: B rows, S prompt length, T generated tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from luthier.answers import Answer, Candidate
from luthier.config.model import ModelConfig
from luthier.rows import Message, Row
from luthier.trainers.batches import collate
from luthier.trainers.loss import SumLoss
from luthier.trainers.model import load_adapter, load_base
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
    """

    answer: Answer
    nll: float
    num_tokens: int


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
        full = weights_dir is not None and (weights_dir / "model").is_dir()
        loaded = load_base(weights_dir / "model" if full and weights_dir else base_model_dir, model, dtype)
        if weights_dir is not None and not full:
            loaded = load_adapter(loaded, weights_dir / "adapter")
        self.model: Any = loaded.to(device).eval()
        self.device = device

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
        by_length = sorted(range(len(questions)), key=lambda index: len(prompts[index]))
        results: dict[int, Scored] = {}
        for start in range(0, len(by_length), batch_size):
            chosen = by_length[start : start + batch_size]
            rows = [questions[index].row for index in chosen]
            ids = [prompts[index] for index in chosen]
            answers = self._generate(rows, ids, max_new_tokens)
            losses = self._reference_losses([questions[index] for index in chosen], ids)
            for index, answer, (nll, num_tokens) in zip(chosen, answers, losses, strict=True):
                results[index] = Scored(answer, nll, num_tokens)
            on_batch(len(results))
        return [results[index] for index in range(len(questions))]

    @torch.inference_mode()
    def _generate(self, rows: Sequence[Row], prompts: Sequence[tuple[int, ...]], max_new_tokens: int) -> list[Answer]:
        from transformers import GenerationConfig

        unlabelled = [
            Encoded(row.row_id, ids, (IGNORE,) * len(ids), False) for row, ids in zip(rows, prompts, strict=True)
        ]
        batch = collate(unlabelled, self.tokenizer.pad_id).to(self.device)
        witness = _TopTwo()
        tokens_BT = self.model.generate(
            input_ids=batch.input_ids_BS,
            attention_mask=batch.attention_mask_BS,
            logits_processor=[witness],
            generation_config=GenerationConfig(
                max_new_tokens=max_new_tokens,
                do_sample=False,
                eos_token_id=self.tokenizer.eos_id,
                pad_token_id=self.tokenizer.pad_id,
            ),
        )[:, batch.input_ids_BS.shape[1] :]
        return [
            self._answer(row.row_id, ids, tokens_BT[index].tolist(), witness.of_row(index))
            for index, (row, ids) in enumerate(zip(rows, prompts, strict=True))
        ]

    def _answer(
        self, row_id: str, prompt: tuple[int, ...], tokens: list[int], seen: list[tuple[Candidate, Candidate]]
    ) -> Answer:
        eos = self.tokenizer.eos_id
        length = tokens.index(eos) + 1 if eos in tokens else len(tokens)
        said = tuple(tokens[:length])
        return Answer(row_id, prompt, said, self.tokenizer.decode(said), tuple(seen[:length]))

    @torch.inference_mode()
    def _reference_losses(
        self, questions: Sequence[Question], prompts: Sequence[tuple[int, ...]]
    ) -> list[tuple[float, int]]:
        encoded = []
        for question, ids in zip(questions, prompts, strict=True):
            solved = Row(question.row.row_id, (*question.prompt, question.row.messages[-1]))
            whole = self.tokenizer.encode(solved, max_length=2**31, assistant_only_loss=True)
            labels = (IGNORE,) * len(ids) + whole.labels[len(ids) :]
            encoded.append(Encoded(whole.row_id, whole.input_ids, labels, False))
        return SumLoss(self.model).row_losses(collate(encoded, self.tokenizer.pad_id).to(self.device))


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
