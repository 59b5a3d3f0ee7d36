"""One variant's figures on all rows, and how to compute them for resamples.

Shape legend: R resamples, N rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from luthier.evaluation_parts import Calibration
from luthier.evaluation_schema import ClassScores
from luthier.trainers.evaluation import intervals, metrics
from luthier.trainers.evaluation.calibration import calibrated
from luthier.trainers.evaluation.labels import LabelSet
from luthier.trainers.evaluation.metrics import BoolArray, FloatArray
from luthier.trainers.evaluation.predictions import Prediction
from luthier.trainers.evaluation.text_metrics import exact_match_rows, text_figures


@dataclass(frozen=True)
class ExtraMetric:
    """A metric beside those that are always measured.

    Attributes:
        name: In tables.
        measure: Gives a figure for each row, whose mean is reported with an interval, or one for all, without.
    """

    name: str
    measure: Callable[[Sequence[Prediction]], FloatArray | float]


@dataclass
class Measured:
    """What is known of one variant.

    Attributes:
        values: By metric, on all rows.
        statistics: The same for resamples.
        figures: By metric, those that can't be resampled.
        per_class: By label.
        confusion: True label by answered label.
        calibration: How sure it was; None: unknown.
        right: By metric, which rows are right.
    """

    values: dict[str, float] = field(default_factory=dict)
    statistics: list[intervals.Statistic] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    per_class: dict[str, ClassScores] = field(default_factory=dict)
    confusion: tuple[tuple[int, ...], ...] = ()
    calibration: Calibration | None = None
    right: dict[str, BoolArray] = field(default_factory=dict)


def measure(
    rows: Sequence[Prediction],
    labels: LabelSet | None,
    likelihood_2N: FloatArray | None,
    *,
    text_metrics: bool,
    extra: Sequence[ExtraMetric],
) -> Measured:
    """All figures of one variant's answers.

    Args:
        rows: The answers.
        labels: The classes; None: answers are free text.
        likelihood_2N: Summed negative log-likelihood of each reference, and its tokens; None: unknown.
        text_metrics: Whether answers are texts to compare with the reference.
        extra: Further metrics.
    """
    found = Measured()
    if labels is not None:
        _add_classes(found, rows, labels)
    if text_metrics:
        references, answers = [row.label for row in rows], [row.answer for row in rows]
        values, statistics = text_figures(references, answers, free_text=labels is None)
        found.values |= values
        found.statistics += statistics
        found.right["exact_match"] = exact_match_rows(references, answers) == 1.0
    if likelihood_2N is not None:
        found.values["perplexity"] = float(metrics.perplexity(*likelihood_2N))
        found.statistics.append(intervals.perplexity_statistic(*likelihood_2N))
    for metric in extra:
        _add_extra(found, metric, rows)
    return found


def _add_classes(found: Measured, rows: Sequence[Prediction], labels: LabelSet) -> None:
    num_labels = len(labels.labels)
    truth_N = np.array([labels.of_truth(row.label, row.row_id) for row in rows], dtype=np.int64)
    answers_N = np.array([labels.of_answer(row.answer) for row in rows], dtype=np.int64)
    found.values |= metrics.class_figures(truth_N, answers_N, num_labels)
    found.statistics.append(intervals.class_statistic(truth_N, answers_N, num_labels))
    found.right["accuracy"] = truth_N == answers_N
    found.per_class = metrics.per_class(truth_N, answers_N, labels.labels)
    found.confusion = metrics.confusion(truth_N, answers_N, num_labels)
    sure = calibrated(rows, truth_N, answers_N)
    if sure is not None:
        found.values |= sure.values()
        found.statistics.append(sure.statistic)
        found.calibration = sure.table()


def _add_extra(found: Measured, metric: ExtraMetric, rows: Sequence[Prediction]) -> None:
    given = metric.measure(rows)
    if isinstance(given, float):
        found.figures[metric.name] = given
    else:
        found.values[metric.name] = float(given.mean())
        found.statistics.append(intervals.mean_statistic(metric.name, given))
