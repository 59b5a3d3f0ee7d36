"""Task metrics during training: validation rows are answered greedily, and the answers are scored as on the test split.

Shape legend: B rows, S prompt length, L labels, N rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from luthier.config.run import RunConfig
from luthier.trainers.evaluation import metrics, text_metrics
from luthier.trainers.evaluation.labels import LabelSet
from luthier.trainers.files import classes_of
from luthier.trainers.metrics_stream import Metrics
from luthier.trainers.prompts import (
    answer_greedily,
    batch_prompts,
    by_length,
    common_beginning,
    plain_cache,
    prefill,
    widened,
)
from luthier.trainers.strategies import Worker
from luthier.trainers.tokens import IGNORE, ChatTokenizer, Encoded

_OF_TEXTS = {
    "exact_match": text_metrics.exact_match_rows,
    "rouge_l": text_metrics.rouge_l_rows,
}


class Answering:
    """Answers validation rows with the model as it is, and measures the answers. All workers call alike.

    Args:
        cfg: ``train.eval_metrics`` names what is measured; ``datasets[].labels`` the classes.
        tokenizer: Of the model.
        worker: This process, which answers its share of the rows.
    """

    def __init__(self, cfg: RunConfig, tokenizer: ChatTokenizer, worker: Worker) -> None:
        self._names = [name for name in cfg.train.eval_metrics if name != "perplexity"]
        self._plain_attention = cfg.model.attn_implementation
        self._bf16 = cfg.train.bf16 is True
        self._max_new_tokens = cfg.evaluate.max_new_tokens
        self._batch_size = cfg.evaluate.batch_size
        self._tokenizer = tokenizer
        self._worker = worker
        self._labels = LabelSet(classes_of(cfg.datasets)) if set(self._names) - set(_OF_TEXTS) else None

    @torch.no_grad()
    def measure(self, model: Any, rows: Sequence[Encoded]) -> Metrics:
        """The metrics by name, over the rows of all workers.

        Args:
            model: The model in evaluation mode, its weights whole on every worker.
            rows: Prompts and reference answers.
        """
        mine = rows[self._worker.rank :: self._worker.world_size]
        pairs = [_asked(row) for row in mine]
        references = [self._tokenizer.decode(reference) for _, reference in pairs]
        with _attending(model, self._plain_attention), self._autocast(model):
            answers = self._answers(model, [prompt for prompt, _ in pairs])
        found = self._text_figures(references, answers)
        if self._labels is not None:
            found |= self._class_figures(self._labels, [row.row_id for row in mine], references, answers)
        return {name: found[name] for name in self._names}

    def _autocast(self, model: Any) -> torch.autocast:
        return torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=self._bf16)

    def _text_figures(self, references: Sequence[str], answers: Sequence[str]) -> Metrics:
        """Means over the rows of all workers."""
        wanted = [name for name in _OF_TEXTS if name in self._names]
        sums = [float(_OF_TEXTS[name](references, answers).sum()) for name in wanted]
        *totals, count = self._worker.sum(*sums, len(answers))
        return {name: total / count for name, total in zip(wanted, totals, strict=True)}

    def _class_figures(
        self, labels: LabelSet, row_ids: Sequence[str], references: Sequence[str], answers: Sequence[str]
    ) -> Metrics:
        """From the counts of true and answered labels, which add up over workers."""
        size = len(labels.labels) + 1
        counts = np.zeros((size, size))
        for row_id, reference, answer in zip(row_ids, references, answers, strict=True):
            counts[labels.of_truth(reference, row_id), labels.of_answer(answer)] += 1
        summed = np.array(self._worker.sum(*counts.flatten().tolist())).round().astype(np.int64)
        truth_N = np.repeat(np.repeat(np.arange(size), size), summed)
        answers_N = np.repeat(np.tile(np.arange(size), size), summed)
        return metrics.class_figures(truth_N, answers_N, len(labels.labels))

    def _answers(self, model: Any, prompts: Sequence[tuple[int, ...]]) -> list[str]:
        """In the order of the prompts; those of like length are answered together."""
        num_shared = common_beginning(prompts)
        cache = plain_cache(model) if num_shared else None
        if cache is None:
            num_shared = 0
        else:
            prefill(model, cache, prompts[0][:num_shared], model.device)
        said: dict[int, str] = {}
        for chosen in by_length(prompts, self._batch_size):
            said |= dict(zip(chosen, self._batch(model, [prompts[i] for i in chosen], num_shared, cache), strict=True))
        return [said[index] for index in range(len(prompts))]

    def _batch(self, model: Any, prompts: Sequence[tuple[int, ...]], num_shared: int, shared: Any) -> list[str]:
        batch = batch_prompts(prompts, num_shared, self._tokenizer.pad_id).to(model.device)
        cache = None if shared is None else widened(shared, len(prompts))
        tokens_BT = answer_greedily(model, self._tokenizer, batch, cache, self._max_new_tokens)
        return [self._tokenizer.decode(tokens) for tokens in tokens_BT.tolist()]


def with_perplexity(found: Metrics, names: Sequence[str]) -> Metrics:
    """``eval_perplexity`` beside ``eval_loss``, where it is asked for; capped at exp(700)."""
    if "perplexity" not in names:
        return found
    return found | {"eval_perplexity": math.exp(min(found["eval_loss"], 700.0))}


def _asked(row: Encoded) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Prompt and reference answer of a row: its last run of loss-bearing tokens, and what comes before."""
    end = max(place for place, label in enumerate(row.labels) if label != IGNORE) + 1
    start = end
    while start and row.labels[start - 1] != IGNORE:
        start -= 1
    return row.input_ids[:start], row.input_ids[start:end]


@contextmanager
def _attending(model: Any, implementation: str) -> Iterator[None]:
    """Another way of attention for the length of a block: rows that lie flat have one that knows no padding."""
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    before = causal.config._attn_implementation
    causal.set_attn_implementation(implementation)
    try:
        yield
    finally:
        causal.set_attn_implementation(before)
