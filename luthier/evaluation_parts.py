"""Parts of an evaluation, each a kind of figure by itself.

Imports neither torch nor ray nor numpy, as :mod:`luthier.evaluation_schema`, which puts them together.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from luthier.stored import Count, Stored


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
