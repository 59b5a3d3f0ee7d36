"""What an evaluation found: every figure with its interval, as data that every stage can read.

Imports neither torch nor ray nor numpy, because the gate, the registry and the command line read it too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from luthier.evaluation_parts import Calibration, Cost, FewShotSearch, HarnessTask, JudgeScores, McNemar, Slices, Usage
from luthier.evaluation_parts import Interval as Interval
from luthier.stored import Count, Stored

CANDIDATE = "tuned"
"""The variant that is judged; its difference from each other one is measured."""

OTHER = "(other)"
"""Column of the confusion matrix for answers that are no label."""

CLASS_METRICS = (
    "accuracy",
    "precision_micro",
    "recall_micro",
    "micro_f1",
    "precision_macro",
    "recall_macro",
    "macro_f1",
    "precision_weighted",
    "recall_weighted",
    "weighted_f1",
)
"""Given where the data is labelled; macro and weighted averages are over the labels that occur in the test split."""

CALIBRATION_METRICS = ("ece", "brier", "brier_answered")
"""Given where the data is labelled and a model's probabilities are known: the expected calibration error; the Brier score
over all labels, of classifiers; that of the answered label alone, of generated answers."""

LABEL_TEXT_METRICS = ("exact_match", "rouge_l")
"""Given of every answer in words."""

TEXT_METRICS = ("exact_match", "token_f1", "rouge_1", "rouge_2", "rouge_l", "bleu", "chrf")
"""Given of free text; all lie between 0 and 1."""

JSON_METRICS = ("json_valid", "json_schema_valid")
"""Given of free text that must be JSON."""

LOWER_IS_BETTER = frozenset({"perplexity", *CALIBRATION_METRICS})
"""A gain in these is a negative difference."""


class ClassScores(Stored):
    """One label's figures."""

    precision: float
    """Share of the answers with this label that are right; 0 where there are none."""

    recall: float
    """Share of the rows with this label that were answered right; 0 where there are none."""

    f1: float
    """Harmonic mean of the two."""

    support: Count
    """Rows that truly have this label."""


class VariantScores(Stored):
    """One variant's figures."""

    metrics: dict[str, Interval]
    """By name: those of :data:`CLASS_METRICS`, :data:`CALIBRATION_METRICS`, :data:`TEXT_METRICS` and
    :data:`JSON_METRICS`, ``perplexity``, and the user's own that give a figure for each row."""

    figures: dict[str, float] = {}
    """The user's own metrics that are one figure for all rows; they have no interval."""

    calibration: Calibration | None = None
    """None: no probability is known."""

    usage: Usage | None = None
    """None: it was not asked."""

    cost: Cost | None = None
    """None: its time or the price of its device is unknown."""

    per_class: dict[str, ClassScores] = {}
    """By label; empty without labels."""

    confusion: tuple[tuple[Count, ...], ...] = ()
    """A row for each true label, a column for each answered one and a last one for :data:`OTHER`."""


def metric_names(variants: Iterable[Mapping[str, Interval]]) -> list[str]:
    """Every metric that any of the variants has; not all have all, as a majority class has no probabilities."""
    return list(dict.fromkeys(metric for metrics in variants for metric in metrics))


class TaskScores(Stored):
    """The rows of one dataset among several, by themselves."""

    n: Annotated[int, Field(ge=1)]
    """Rows."""

    variants: dict[str, dict[str, Interval]]
    """By variant and metric. Class metrics are over the dataset's own labels."""


class Evaluation(Stored):
    """The test split, answered by several variants and scored on the same rows."""

    schema_version: Literal[1] = 1
    """Version of this layout."""

    labels: tuple[str, ...]
    """Classes, in the order of the confusion matrix; empty where the data has none."""

    n: Annotated[int, Field(ge=1)]
    """Rows."""

    variants: Annotated[dict[str, VariantScores], Field(min_length=1)]
    """``base``, ``few_shot``, ``tuned``, ``incumbent``: those that were asked."""

    differences: dict[str, dict[str, Interval]]
    """``tuned-base`` and so on: by metric, the first variant's figure minus the second's on the same resamples."""

    mcnemar: dict[str, dict[str, McNemar]] = {}
    """By pair and metric (``accuracy``, ``exact_match``), McNemar's test."""

    judged: JudgeScores | None = None
    """What a language model found; None: none was asked."""

    harness: dict[str, HarnessTask] = {}
    """By task of lm-evaluation-harness."""

    tasks: dict[str, TaskScores] = {}
    """By dataset, where the test rows are of several."""

    slices: dict[str, Slices] = {}
    """By field."""

    few_shot_k: Count
    """Solved examples in the few-shot baseline's prompt."""

    few_shot_search: FewShotSearch | None = None
    """How that number was chosen; None: it was given."""

    confidence: Annotated[float, Field(gt=0.0, lt=1.0)]
    """Coverage of every interval."""

    bootstrap_samples: Annotated[int, Field(ge=1)]
    """Resamples behind every interval."""

    seed: int
    """Seed of the resampling."""

    @model_validator(mode="after")
    def _matrices_fit_labels(self) -> Self:
        num_labels = len(self.labels)
        for name, scores in self.variants.items():
            widths = [len(counts) for counts in scores.confusion]
            if widths != [num_labels + 1] * num_labels or set(scores.per_class) != set(self.labels):
                raise ValueError(f"variant {name!r}: confusion and per_class must fit the {num_labels} labels")
        return self
