"""The class figures of one variant on all rows, and its perplexity.

Macro and weighted averages are over the labels that occur in the test split: a label without rows has no recall, and
counting it as 0 would punish a model for the split. Its wrongly given answers still cost the labels they were taken from.

Shape legend: N rows, L labels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

from luthier.evaluation_schema import ClassScores

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


def class_figures(truth_N: IntArray, answers_N: IntArray, num_labels: int) -> dict[str, float]:
    """Accuracy and averaged precision, recall and F1.

    Args:
        truth_N: Label index of each row.
        answers_N: Answered label index; an index beyond the labels is a wrong answer, which costs recall and, as no label
            was given, no precision.
        num_labels: Labels.
    """
    found = {"accuracy": float(accuracy_score(truth_N, answers_N))}
    over = {"micro": np.arange(num_labels), "macro": np.unique(truth_N), "weighted": np.unique(truth_N)}
    for how, labels in over.items():
        precision, recall, f1, _ = precision_recall_fscore_support(
            truth_N, answers_N, labels=labels, average=how, zero_division=0.0
        )
        found |= {f"precision_{how}": float(precision), f"recall_{how}": float(recall), f"{how}_f1": float(f1)}
    return found


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


def perplexity(nll: FloatArray, num_tokens: FloatArray) -> FloatArray:
    """exp of the mean negative log-likelihood of a token, in nats, summed over the last axis.

    A broken model's mean can be beyond what exp can represent; it is capped at 700 nats (1e304), to stay finite.
    """
    mean: FloatArray = nll.sum(axis=-1) / num_tokens.sum(axis=-1)
    capped: FloatArray = np.exp(np.minimum(mean, 700.0))
    return capped
