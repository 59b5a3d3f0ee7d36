"""Bootstrap resamples of rows, and every metric computed for many resamples at once.

Rows are drawn with replacement (Efron 1979) and intervals are percentiles. All variants are measured on the same
resamples, so that a difference between two is a paired one: what is hard in a row is hard for both and cancels.

Shape legend: R resamples, N rows, L labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from luthier.evaluation_schema import Interval
from luthier.trainers.evaluation.metrics import FloatArray, IntArray, perplexity

Statistic = Callable[[IntArray], Mapping[str, FloatArray]]
"""Takes row indices with shape (R, N), gives each metric's value for the R resamples."""

_CHUNK_INDICES = 2_000_000
"""Row indices held at a time: bounds the memory to some tens of megabytes, however many rows there are."""


def resamples(num_rows: int, count: int, seed: int) -> Iterator[IntArray]:
    """Row indices of ``count`` resamples, in chunks with shape (R, N). The same seed gives the same."""
    generator = np.random.default_rng(seed)
    per_chunk = max(1, _CHUNK_INDICES // num_rows)
    for start in range(0, count, per_chunk):
        yield generator.integers(0, num_rows, size=(min(per_chunk, count - start), num_rows))


def class_statistic(truth_N: IntArray, answers_N: IntArray, num_labels: int) -> Statistic:
    """The figures of :func:`~luthier.trainers.evaluation.metrics.class_figures` for every resample."""
    hits_N = np.where(truth_N == answers_N, truth_N, num_labels)

    def count(codes_N: IntArray, rows_RN: IntArray) -> IntArray:
        width = num_labels + 1
        offsets_R1 = np.arange(len(rows_RN))[:, None] * width
        flat = np.bincount((codes_N[rows_RN] + offsets_R1).ravel(), minlength=len(rows_RN) * width)
        return flat.reshape(len(rows_RN), width)[:, :num_labels]

    def statistic(rows_RN: IntArray) -> dict[str, FloatArray]:
        hits_RL, support_RL = count(hits_N, rows_RN), count(truth_N, rows_RN)
        return _from_counts(hits_RL, support_RL, count(answers_N, rows_RN), rows_RN.shape[1])

    return statistic


def _from_counts(
    hits_RL: IntArray, support_RL: IntArray, answered_RL: IntArray, num_rows: int
) -> dict[str, FloatArray]:
    seen_RL = support_RL > 0
    hits_R, answered_R = hits_RL.sum(axis=1), answered_RL.sum(axis=1)
    found = {
        "accuracy": hits_R / num_rows,
        "precision_micro": _ratio(hits_R, answered_R),
        "recall_micro": hits_R / num_rows,
        "micro_f1": 2 * hits_R / (answered_R + num_rows),
    }
    by_label = {
        ("precision_macro", "precision_weighted"): _ratio(hits_RL, answered_RL),
        ("recall_macro", "recall_weighted"): _ratio(hits_RL, support_RL),
        ("macro_f1", "weighted_f1"): _ratio(2 * hits_RL, support_RL + answered_RL),
    }
    for (macro, weighted), values_RL in by_label.items():
        found[macro] = np.where(seen_RL, values_RL, 0.0).sum(axis=1) / seen_RL.sum(axis=1)
        found[weighted] = (values_RL * support_RL).sum(axis=1) / num_rows
    return found


def _ratio(part: IntArray, whole: IntArray) -> FloatArray:
    """Quotient, and 0 where the divisor is 0."""
    return np.divide(part, whole, out=np.zeros(part.shape), where=whole > 0)


def mean_statistic(name: str, values_N: FloatArray) -> Statistic:
    """The mean over rows of a figure that each row has."""
    return lambda rows_RN: {name: values_N[rows_RN].mean(axis=1)}


def perplexity_statistic(nll_N: FloatArray, num_tokens_N: FloatArray) -> Statistic:
    """Token-weighted perplexity of every resample."""
    return lambda rows_RN: {"perplexity": perplexity(nll_N[rows_RN], num_tokens_N[rows_RN])}


def interval(value: float, samples_R: FloatArray, confidence: float) -> Interval:
    """The percentile interval.

    Args:
        value: Measured on all rows.
        samples_R: The same figure for every resample.
        confidence: Coverage, for instance 0.95.
    """
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(samples_R, (tail, 1.0 - tail))
    return Interval(value=value, low=float(low), high=float(high))
