"""From answers to an :class:`~luthier.evaluation_schema.Evaluation`.

Shape legend: R resamples, N rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from luthier.errors import DataError
from luthier.evaluation_schema import CANDIDATE, Evaluation, Interval, VariantScores
from luthier.trainers.evaluation import intervals
from luthier.trainers.evaluation.labels import LabelSet
from luthier.trainers.evaluation.measured import ExtraMetric, Measured, measure
from luthier.trainers.evaluation.metrics import FloatArray
from luthier.trainers.evaluation.predictions import Prediction
from luthier.trainers.evaluation.significance import mcnemar_tests

Samples = dict[str, dict[str, FloatArray]]
"""By variant and metric its value for every resample."""


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
    extra: Sequence[ExtraMetric] = (),
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
        extra: Metrics beside those that are always measured.

    Raises:
        ConfigError: One of the user's own metrics fails.
        DataError: Fewer than two rows, variants with different rows, a true label that is none of the labels, or
            likelihoods that are not finite or don't fit the rows.
    """
    num_rows = _check_rows(predictions)
    label_set = LabelSet(labels) if labels else None
    likelihoods = _likelihoods(perplexity, predictions, num_rows)
    measured = {
        name: measure(rows, label_set, likelihoods.get(name), text_metrics=text_metrics, extra=extra)
        for name, rows in predictions.items()
    }
    samples = _resample(measured, num_rows, bootstrap_samples, seed)
    others = [name for name in measured if CANDIDATE in measured and name != CANDIDATE]
    return Evaluation(
        labels=labels or (),
        n=num_rows,
        variants={name: _variant(measured[name], samples[name], confidence) for name in measured},
        differences={f"{CANDIDATE}-{name}": _difference(measured, samples, name, confidence) for name in others},
        mcnemar=mcnemar_tests(
            {name: one.right for name, one in measured.items()}, [(CANDIDATE, other) for other in others]
        ),
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


def _resample(measured: Mapping[str, Measured], num_rows: int, count: int, seed: int) -> Samples:
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


def _variant(measured: Measured, samples: Mapping[str, FloatArray], confidence: float) -> VariantScores:
    return VariantScores(
        metrics={
            metric: intervals.interval(value, samples[metric], confidence) for metric, value in measured.values.items()
        },
        figures=measured.figures,
        calibration=measured.calibration,
        per_class=measured.per_class,
        confusion=measured.confusion,
    )


def _difference(
    measured: Mapping[str, Measured], samples: Samples, other: str, confidence: float
) -> dict[str, Interval]:
    mine, theirs = measured[CANDIDATE].values, measured[other].values
    return {
        metric: intervals.interval(
            mine[metric] - theirs[metric], samples[CANDIDATE][metric] - samples[other][metric], confidence
        )
        for metric in mine
        if metric in theirs
    }
