"""What an evaluation found: every figure with its interval, as data that every stage can read.

Imports neither torch nor ray nor numpy, because the gate, the registry and the command line read it too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from luthier.stored import Count, Stored

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


class Interval(Stored):
    """A figure and its bootstrap interval."""

    value: float
    """Measured on all rows."""

    low: float
    """Lower end of the interval."""

    high: float
    """Upper end of the interval."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"interval from {self.low} to {self.high}: low must not be above high")
        return self


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


class CalibrationBin(Stored):
    """The rows of which a model was about equally sure."""

    low: float
    """Least probability of the answered label."""

    high: float
    """Greatest."""

    n: Count
    """Rows."""

    confidence: float
    """Mean probability of the answered label; 0 without rows."""

    accuracy: float
    """Share of the rows that were answered right; 0 without rows."""


class Calibration(Stored):
    """How often a model is right when it says how sure it is."""

    of: Literal["class probabilities", "answered tokens"]
    """What its probabilities are: a classifier's, or that of exactly the tokens that were generated, the end included; the
    label in other words counts for nothing there."""

    bins: tuple[CalibrationBin, ...]
    """Of equal width, from 0 to 1."""


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


class McNemar(Stored):
    """Whether two variants are right equally often, by the rows that only one of them has right."""

    n: Count
    """Rows."""

    gained: Count
    """Rows that only the first variant has right."""

    lost: Count
    """Rows that only the second has right."""

    method: Literal["exact binomial", "chi-squared with continuity correction"]
    """The exact one where few rows differ."""

    p_value: Annotated[float, Field(ge=0.0, le=1.0)]
    """Probability of so uneven a division of the differing rows if both were equally good; two-sided."""

    p_adjusted: Annotated[float, Field(ge=0.0, le=1.0)]
    """The same, adjusted by Holm's method for the comparisons with all rivals by this metric."""


class Usage(Stored):
    """What an answer took where the test split was answered, on average."""

    prompt_tokens: float | None
    """None: a classifier's input is not counted."""

    answer_tokens: float | None
    """None: a classifier generates none."""

    seconds: float | None
    """Of one worker that answers ``evaluate.batch_size`` rows at a time; None: not measured."""

    device: str | None
    """What a worker holds, by Ray's name of the accelerator, or ``CPU``; None: unknown."""

    units: float
    """How many of it: GPUs or cores."""


class Cost(Stored):
    """What 1,000 requests cost on a machine that is kept busy, of the least to the greatest price in the table."""

    low: float
    """By the least price."""

    high: float
    """By the greatest."""

    currency: str
    """Of both."""

    prices_as_of: str
    """When the prices were such."""

    seconds: float
    """Of the device that one request takes."""

    measured: Literal["answering the test split", "at the endpoint"]
    """Where the seconds are from."""


class SliceScores(Stored):
    """The rows that have one value of a field."""

    value: str
    """The value; ``(none)`` of rows without the field."""

    n: Annotated[int, Field(ge=1)]
    """Rows."""

    variants: dict[str, dict[str, Interval]] = {}
    """By variant and metric; empty of a single row, which has no interval."""

    differences: dict[str, dict[str, Interval]] = {}
    """By pair and metric."""


class Slices(Stored):
    """The test rows by the values of one field."""

    slices: tuple[SliceScores, ...]
    """The largest first."""

    num_left_out: Count = 0
    """Values with fewer rows than those above, of which there are too many to tell."""


class FewShotSearch(Stored):
    """How the number of examples in the few-shot prompt was chosen."""

    metric: str
    """By which figure."""

    n: Count
    """Validation rows."""

    tried: dict[int, float]
    """Number of examples to the figure."""


class JudgeScores(Stored):
    """How a language model, asked in both orders, found the tuned model's answers beside another variant's."""

    model: str
    """Who judged."""

    rubric_sha256: str
    """Of what it was told to go by, so that figures by different rubrics are not compared."""

    against: str
    """The other variant."""

    drawn: Count
    """Rows that were to be compared."""

    n: Count
    """Rows with a verdict: those below but for the last two."""

    wins: Count
    """Tuned was found better in both orders."""

    losses: Count
    """The other was."""

    ties: Count
    """Neither was: both orders say so, or the orders disagree, or the answers are equal."""

    disagreements: Count
    """Of the ties, those in which the orders disagree."""

    equal: Count
    """Of the ties, those whose answers are equal, so that nobody was asked."""

    unparsable: Count
    """Rows with a reply that is neither A nor B nor tie; they have no verdict."""

    failed: Count
    """Rows with a request that got no reply; they have no verdict."""

    failures: dict[str, Count] = {}
    """Requests that got no reply, by kind of error."""

    first_share: float | None
    """Of the replies that chose, how many chose the answer that was shown first: 0.5 without a bias by position. None: no
    reply chose."""

    win_rate: Interval | None
    """Wins and half of the ties, of the rows with a verdict; None: fewer than two."""

    p_value: float | None
    """Of the sign test of wins against losses, two-sided; None: there are neither."""


class HarnessFigure(Stored):
    """One figure of one model on one task of lm-evaluation-harness."""

    value: float
    """As the harness gives it."""

    stderr: float | None
    """Its standard error; None: the harness gives none."""


class HarnessTask(Stored):
    """One task of lm-evaluation-harness."""

    version: str
    """Of the task, since figures of different ones are not compared."""

    n: Count
    """Rows; 0: a group, whose tasks stand by themselves too."""

    variants: dict[str, dict[str, HarnessFigure]]
    """By variant (``base``, ``tuned``) and metric with its filter, as in ``acc,none``."""


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
