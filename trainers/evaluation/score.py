"""From answers to an :class:`~luthier.evaluation_schema.Evaluation`.

Shape legend: R resamples, N rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from luthier.errors import DataError
from luthier.evaluation_schema import ClassScores, Evaluation, Interval, VariantScores
from luthier.trainers.evaluation import intervals, metrics
from luthier.trainers.evaluation.labels import LabelSet
from luthier.trainers.evaluation.metrics import FloatArray

CANDIDATE = "tuned"
"""The variant whose difference from each other one is measured."""

Samples = dict[str, dict[str, FloatArray]]
"""By variant and metric its value for every resample."""


@dataclass(frozen=True)
class Prediction:
    """One variant's answer to one row.

    Attributes:
        row_id: The row's id in its dataset.
        label: The true label, or the reference answer where the data has no labels.
        answer: What the model said, whole.
    """

    row_id: str
    label: str
    answer: str


@dataclass(frozen=True)
class _Measured:
    """One variant's figures on all rows, and how to compute them for resamples."""

    values: dict[str, float]
    statistics: tuple[intervals.Statistic, ...]
    per_class: dict[str, ClassScores]
    confusion: tuple[tuple[int, ...], ...]


def score(
    predictions: Mapping[str, Sequence[Prediction]],
    labels: tuple[str, ...] | None,
    *,
    confidence: float,
    bootstrap_samples: int,
    seed: int,
    few_shot_k: int,
    perplexity: Mapping[str, Sequence[tuple[float, int]]] | None = None,
    text_metrics: bool = True,
) -> Evaluation:
    """Score every variant on the same rows, with bootstrap intervals.

    Args:
        predictions: By variant, in the same order of rows.
        labels: The classes; None where answers are free text, which leaves the class metrics out.
        confidence: Coverage of the intervals.
        bootstrap_samples: Resamples behind each.
        seed: Seed of the resampling.
        few_shot_k: Recorded in the result.
        perplexity: By variant and row, the summed negative log-likelihood of the reference answer's tokens, in
            nats, and how many they are.
        text_metrics: Whether answers are texts to compare with the reference; False: they are labels, or there are
            none.

    Raises:
        DataError: Fewer than two rows, variants with different rows, a true label that is none of the labels, or
            likelihoods that are not finite or don't fit the rows.
    """
    num_rows = _check_rows(predictions)
    label_set = LabelSet(labels) if labels else None
    likelihoods = _likelihoods(perplexity, predictions, num_rows)
    measured = {
        name: _measure(rows, label_set, likelihoods.get(name), text_metrics) for name, rows in predictions.items()
    }
    samples = _resample(measured, num_rows, bootstrap_samples, seed)
    others = [name for name in measured if CANDIDATE in measured and name != CANDIDATE]
    return Evaluation(
        labels=labels or (),
        n=num_rows,
        variants={name: _variant(measured[name], samples[name], confidence) for name in measured},
        differences={f"{CANDIDATE}-{name}": _difference(measured, samples, name, confidence) for name in others},
        few_shot_k=few_shot_k,
        confidence=confidence,
        bootstrap_samples=bootstrap_samples,
        seed=seed,
    )


def _check_rows(predictions: Mapping[str, Sequence[Prediction]]) -> int:
    """Number of rows, which all variants must share."""
    if not predictions:
        raise DataError("no variant was answered, so there is nothing to score.")
    first, *others = predictions
    expected = [(one.row_id, one.label) for one in predictions[first]]
    if len(expected) < 2:
        raise DataError(f"{len(expected)} test row(s): an interval needs at least 2; add rows to the test split.")
    for name in others:
        given = [(one.row_id, one.label) for one in predictions[name]]
        if len(given) != len(expected):
            raise DataError(f"variant {first!r} has {len(expected)} rows, {name!r} has {len(given)}.")
        for mine, theirs in zip(expected, given, strict=True):
            if mine != theirs:
                raise DataError(f"variants {first!r} and {name!r} part at row {mine[0]!r}; keep one order of rows.")
    return len(expected)


def _likelihoods(
    given: Mapping[str, Sequence[tuple[float, int]]] | None, variants: Mapping[str, object], num_rows: int
) -> dict[str, FloatArray]:
    """By variant an array with shape (2, N): summed negative log-likelihood and tokens."""
    if given is None:
        return {}
    found: dict[str, FloatArray] = {}
    for name in variants:
        rows = given.get(name, ())
        if len(rows) != num_rows:
            raise DataError(f"variant {name!r}: {len(rows)} likelihoods for {num_rows} rows.")
        for number, (nll, num_tokens) in enumerate(rows):
            if not math.isfinite(nll) or num_tokens < 1:
                raise DataError(
                    f"variant {name!r}, row {number}: likelihood {nll} of {num_tokens} tokens; it must be finite "
                    "and the reference answer not empty."
                )
        found[name] = np.array(rows, dtype=np.float64).T
    return found


def _measure(
    rows: Sequence[Prediction], labels: LabelSet | None, likelihood_2N: FloatArray | None, text_metrics: bool
) -> _Measured:
    values: dict[str, float] = {}
    statistics: list[intervals.Statistic] = []
    classes: dict[str, ClassScores] = {}
    matrix: tuple[tuple[int, ...], ...] = ()
    if labels is not None:
        truth_N = np.array([labels.of_truth(row.label, row.row_id) for row in rows], dtype=np.int64)
        answers_N = np.array([labels.of_answer(row.answer) for row in rows], dtype=np.int64)
        values |= metrics.class_figures(truth_N, answers_N)
        statistics.append(intervals.class_statistic(truth_N, answers_N, len(labels.labels)))
        classes = metrics.per_class(truth_N, answers_N, labels.labels)
        matrix = metrics.confusion(truth_N, answers_N, len(labels.labels))
    references, answers = [row.label for row in rows], [row.answer for row in rows]
    of_texts = (("exact_match", metrics.exact_match_rows), ("rouge_l", metrics.rouge_l_rows))
    for name, of_rows in of_texts if text_metrics else ():
        values_N = of_rows(references, answers)
        values[name] = float(values_N.mean())
        statistics.append(intervals.mean_statistic(name, values_N))
    if likelihood_2N is not None:
        values["perplexity"] = float(metrics.perplexity(*likelihood_2N))
        statistics.append(intervals.perplexity_statistic(*likelihood_2N))
    return _Measured(values, tuple(statistics), classes, matrix)


def _resample(measured: Mapping[str, _Measured], num_rows: int, count: int, seed: int) -> Samples:
    """Every metric for every resample; resample r is the same rows for all variants."""
    parts: dict[str, dict[str, list[FloatArray]]] = {name: {} for name in measured}
    for rows_RN in intervals.resamples(num_rows, count, seed):
        for name, variant in measured.items():
            for statistic in variant.statistics:
                for metric, values_R in statistic(rows_RN).items():
                    parts[name].setdefault(metric, []).append(values_R)
    return {
        name: {metric: np.concatenate(chunks) for metric, chunks in by_metric.items()}
        for name, by_metric in parts.items()
    }


def _variant(measured: _Measured, samples: Mapping[str, FloatArray], confidence: float) -> VariantScores:
    return VariantScores(
        metrics={
            metric: intervals.interval(value, samples[metric], confidence) for metric, value in measured.values.items()
        },
        per_class=measured.per_class,
        confusion=measured.confusion,
    )


def _difference(
    measured: Mapping[str, _Measured], samples: Samples, other: str, confidence: float
) -> dict[str, Interval]:
    mine, theirs = measured[CANDIDATE].values, measured[other].values
    return {
        metric: intervals.interval(
            mine[metric] - theirs[metric], samples[CANDIDATE][metric] - samples[other][metric], confidence
        )
        for metric in mine
    }
