"""What is measured on test rows that ask no prompt: a classifier's labels, and how likely plain text is.

Both score rows as :class:`~luthier.trainers.generate.Generator` does, so that evaluation treats all models alike.

Shape legend: B rows, C classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from luthier.answers import Answer, Classified
from luthier.config.model import ModelConfig
from luthier.precision import Dtype
from luthier.rows import Row
from luthier.trainers.classifier import load_classifier
from luthier.trainers.generate import Question, Scored, dtype_name
from luthier.trainers.loss import SumLoss
from luthier.trainers.model import load_trained
from luthier.trainers.objectives.base import Tally
from luthier.trainers.objectives.classification import Classification, ClassLoss
from luthier.trainers.objectives.pretraining import Pretraining


class Classifier:
    """A trained classifier, whose answer is its likeliest label.

    Args:
        weights_dir: Holds ``model/``, a whole classifier with its labels.
        model: How to load it.
        max_length: Tokens read of a row.
        dtype: Compute type.
        device: Where to run.
    """

    def __init__(
        self, weights_dir: Path, model: ModelConfig, max_length: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        loaded = load_classifier(weights_dir / "model", model, dtype).to(device).eval()
        self.classes = tuple(label for _, label in sorted(loaded.config.id2label.items()))
        self._objective = Classification(weights_dir / "tokenizer", max_length, self.classes)
        self._classify = ClassLoss(loaded, Tally("accuracy"))
        self._device = device
        self._dtype = dtype_name(dtype)

    @torch.inference_mode()
    def score(self, questions: Sequence[Question], *, max_new_tokens: int, batch_size: int) -> list[Scored]:
        """The label of each row; its likelihood is not measured."""
        del max_new_tokens  # nothing is generated
        rows = [question.row for question in questions]
        scored: list[Scored] = []
        for start in range(0, len(rows), batch_size):
            scored += self._score_batch(rows[start : start + batch_size])
        return scored

    def _score_batch(self, rows: Sequence[Row]) -> list[Scored]:
        # An incumbent need not know every label of the rows, so they are read without theirs.
        encoded = [replace(one, label=self.classes[0]) for one in rows]
        batch = self._objective.collate([part for row in encoded for part in self._objective.encode(row)])
        logits_BC = self._classify.class_logits(batch.to(self._device))
        scored: list[Scored] = []
        for row, probabilities in zip(rows, logits_BC.softmax(dim=1).tolist(), strict=True):
            scores = dict(zip(self.classes, probabilities, strict=True))
            found = Classified(row.row_id, str(row.text), scores, self._dtype)
            scored.append(Scored(_said(row, found.label, self._dtype), 0.0, 1, found))
        return scored


class TextScorer:
    """A causal language model that is measured by how likely it finds plain text.

    Args:
        base_model_dir: The pretrained model.
        model: How to load it.
        weights_dir: Holds ``adapter/`` or ``model/`` of a trained model; None: the base itself.
        max_length: Tokens of a sequence; longer texts are divided as they are for training.
        dtype: Compute type.
        device: Where to run.
    """

    def __init__(
        self,
        base_model_dir: Path,
        model: ModelConfig,
        weights_dir: Path | None,
        max_length: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._objective = Pretraining(base_model_dir, max_length)
        self._model: Any = load_trained(base_model_dir, model, weights_dir, dtype).to(device).eval()
        self._device = device
        self._dtype = dtype_name(dtype)

    @torch.inference_mode()
    def score(self, questions: Sequence[Question], *, max_new_tokens: int, batch_size: int) -> list[Scored]:
        """The likelihood of each row's text; no answer is generated."""
        del max_new_tokens
        pieces = [(index, one) for index, asked in enumerate(questions) for one in self._objective.encode(asked.row)]
        nll, tokens = [0.0] * len(questions), [0] * len(questions)
        for start in range(0, len(pieces), batch_size):
            chosen = pieces[start : start + batch_size]
            batch = self._objective.collate([one for _, one in chosen]).to(self._device)
            for (index, _), (loss, count) in zip(chosen, SumLoss(self._model).row_losses(batch), strict=True):
                nll[index] += loss
                tokens[index] += count
        return [
            Scored(_said(asked.row, "", self._dtype), loss, count)
            for asked, loss, count in zip(questions, nll, tokens, strict=True)
        ]


def majority(train_rows: Iterable[Row], rows: Sequence[Row]) -> list[Scored]:
    """The commonest label of the training rows as everybody's answer; of equally common ones, the first by name."""
    counts = Counter(row.label for row in train_rows if row.label is not None)
    label = min(counts, key=lambda name: (-counts[name], name))
    return [Scored(_said(row, label, "float32"), 0.0, 1) for row in rows]


def _said(row: Row, text: str, dtype: Dtype) -> Answer:
    return Answer(row.row_id, (), (), text, (), (), dtype)
