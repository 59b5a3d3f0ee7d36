"""The figures of one variant on all rows.

Macro averages are over the labels that occur in the test split: a label without rows has no recall, and counting it
as 0 would punish a model for the split. Its wrongly given answers still cost the labels they were taken from.

Shape legend: N rows, L labels.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rouge_score.rouge_scorer import RougeScorer
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

from luthier.evaluation_schema import ClassScores

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


def class_figures(truth_N: IntArray, answers_N: IntArray) -> dict[str, float]:
    """Accuracy and averaged precision, recall and F1.

    Args:
        truth_N: Label index of each row.
        answers_N: Answered label index; an index beyond the labels is a wrong answer.
    """
    seen = np.unique(truth_N)
    averaged = {
        how: precision_recall_fscore_support(truth_N, answers_N, labels=seen, average=how, zero_division=0.0)
        for how in ("macro", "weighted")
    }
    return {
        "accuracy": float(accuracy_score(truth_N, answers_N)),
        "precision_macro": float(averaged["macro"][0]),
        "recall_macro": float(averaged["macro"][1]),
        "macro_f1": float(averaged["macro"][2]),
        "weighted_f1": float(averaged["weighted"][2]),
    }


def per_class(truth_N: IntArray, answers_N: IntArray, labels: Sequence[str]) -> dict[str, ClassScores]:
    """Each label's precision, recall, F1 and number of rows."""
    columns = precision_recall_fscore_support(truth_N, answers_N, labels=range(len(labels)), zero_division=0.0)
    return {
        label: ClassScores(precision=float(p), recall=float(r), f1=float(f1), support=int(support))
        for label, p, r, f1, support in zip(labels, *columns, strict=True)
    }


def confusion(truth_N: IntArray, answers_N: IntArray, num_labels: int) -> tuple[tuple[int, ...], ...]:
    """Counts with shape (L, L + 1): true label by answered label, the last column for answers that are none."""
    square = confusion_matrix(truth_N, answers_N, labels=range(num_labels + 1))
    return tuple(tuple(int(count) for count in row) for row in square[:num_labels])


def exact_match_rows(references: Sequence[str], answers: Sequence[str]) -> FloatArray:
    """1 where the whole answer is the reference, character for character but for white space around it."""
    pairs = zip(references, answers, strict=True)
    return np.array([reference.strip() == answer.strip() for reference, answer in pairs], dtype=np.float64)


def rouge_l_rows(references: Sequence[str], answers: Sequence[str]) -> FloatArray:
    """ROUGE-L F-measure of each row (Lin 2004), without stemming."""
    scorer = RougeScorer(["rougeL"], tokenizer=_UnicodeTokenizer())
    pairs = zip(references, answers, strict=True)
    return np.array([scorer.score(reference, answer)["rougeL"].fmeasure for reference, answer in pairs])


class _UnicodeTokenizer:
    """Words of any script; the library's own drops every letter outside a-z, so that other scripts score 0.

    Scripts without spaces between words are taken character by character.
    """

    _TOKEN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W_\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")

    def tokenize(self, text: str) -> list[str]:
        """The text's tokens."""
        return self._TOKEN.findall(text.lower())


def perplexity(nll: FloatArray, num_tokens: FloatArray) -> FloatArray:
    """exp of the mean negative log-likelihood of a token, in nats, summed over the last axis.

    A broken model's mean can be beyond what exp can represent; it is capped at 700 nats (1e304), to stay finite.
    """
    mean: FloatArray = nll.sum(axis=-1) / num_tokens.sum(axis=-1)
    capped: FloatArray = np.exp(np.minimum(mean, 700.0))
    return capped
