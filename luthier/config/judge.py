"""How a trained model is measured, and what it takes to be promoted."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from luthier.config.base import Config
from luthier.config.harness import HarnessConfig
from luthier.config.llm_judge import LlmJudgeConfig

Metric = Literal[
    "accuracy", "precision_micro", "recall_micro", "micro_f1", "precision_macro", "recall_macro", "macro_f1",
    "precision_weighted", "recall_weighted", "weighted_f1", "exact_match", "token_f1", "rouge_1", "rouge_2", "rouge_l",
    "bleu", "chrf", "json_valid", "json_schema_valid", "perplexity",
]  # fmt: skip
Baseline = Literal["base", "few_shot", "majority", "incumbent"]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Shots = Annotated[int, Field(ge=0)]
AUTO_SHOTS = (0, 2, 5, 8)


def rows_for_a_gain(confidence: float) -> int:
    """Fewest rows that can show a gain at a confidence.

    If nothing had changed, each of n changed rows would be a gain with probability 1/2; all n are with 2^-n, which
    must not exceed (1 - confidence) / 2: the sign test.
    """
    return math.ceil(math.log2(2 / (1 - confidence)))


class EvaluateConfig(Config):
    """The evaluation on the untouched test split."""

    few_shot_k: Shots | Literal["auto"] | Annotated[tuple[Shots, ...], Field(min_length=2)] = 5
    """Solved training examples in the few-shot baseline's prompt; 0 leaves that baseline out. A list of numbers: the one that
    is best on the validation split, by the gate's metric. ``auto``: of 0, 2, 5 and 8."""

    few_shot_rows: Annotated[int, Field(ge=2)] = 100
    """Validation rows, drawn by the seed, by which the number is chosen."""

    slices: tuple[str, ...] = ()
    """Columns of the test rows by whose values the figures are told apart, such as ``language``."""

    prices: str | None = None
    """File of prices as ``luthier plan --prices`` takes it, for the cost of 1,000 requests. None: luthier's examples."""

    max_new_tokens: Annotated[int, Field(ge=1)] = 32
    """Longest generated answer in tokens."""

    batch_size: Annotated[int, Field(ge=1)] = 32
    """Rows generated at a time."""

    bootstrap_samples: Annotated[int, Field(ge=100)] = 1000
    """Resamples behind every interval."""

    confidence: float = Field(default=0.95, gt=0.5, lt=1.0)
    """Coverage of the intervals."""

    limit: Annotated[int, Field(ge=2)] | None = None
    """Evaluate only the first rows of the test split; None: all."""

    metrics: tuple[Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")], ...] = ()
    """Metrics of your own: functions as ``package.module:function``, called where the command runs, with the references,
    the answers and a dict of each row (``row_id``, ``question``, ``dataset``). One that returns a figure for each row gets an
    interval; one that returns a number stands without."""

    judge: LlmJudgeConfig | None = None
    """A language model that compares the tuned model's answers with the base model's; None: none."""

    harness: HarnessConfig | None = None
    """Tasks of lm-evaluation-harness for base and tuned, such as ``[hellaswag]``; None: none."""

    json_schema: str | None = None
    """File with a JSON schema that answers must fit, references within it only. None: where all references are JSON objects or
    lists, it is measured whether answers are JSON."""

    @property
    def few_shot_ks(self) -> tuple[int, ...]:
        """The numbers of examples to choose from, the least first; one: nothing is chosen."""
        if self.few_shot_k == "auto":
            return AUTO_SHOTS
        return (self.few_shot_k,) if isinstance(self.few_shot_k, int) else tuple(sorted({*self.few_shot_k}))


class GateConfig(Config):
    """What a candidate must show before an alias moves to it."""

    metric: Metric | None = None
    """The figure that is compared. None: macro_f1 where every test row has a label, else rouge_l; perplexity after
    ``train.objective: pretraining``."""

    against: tuple[Baseline, ...] = ("base", "few_shot", "incumbent")
    """Whom the candidate is held against, by the interval of the paired difference.

    ``base`` and ``few_shot`` must be beaten: the whole interval must lie above min_delta. ``incumbent``, the version
    that the alias points to, must not beat the candidate: an interval that lies below 0 as a whole is refused, so a
    model that is as good may take its place. A classifier has neither base nor few-shot prompt; it must beat
    ``majority``, the commonest class of the training rows. Pretraining has no few-shot prompt.
    """

    min_delta: Share = 0.0
    """Smallest gain over base, few_shot and majority, in the metric's own unit."""

    min_value: Share | None = None
    """Smallest value of the metric itself, which lies between 0 and 1 (not perplexity); None: no bound."""

    max_size_mb: Positive | None = None
    """Most megabytes (of 1,000,000 bytes) that the version's files may have in all, an adapter's without its base; None: no
    bound."""

    max_first_token_s: Positive | None = None
    """Longest time to the first token of an answer; None: no bound. Like the next one it bounds the 95th percentile over
    the ``serve.parity_rows`` test rows, asked of the live endpoint up to ``serve.max_num_seqs`` at a time. A version that
    was not measured is refused where there is a bound."""

    max_inter_token_ms: Positive | None = None
    """Longest time from one token of an answer to the next, on average over the answer; None: no bound."""

    parity: Literal["required", "if_served", "ignored"] = "if_served"
    """Whether the endpoint's answers must be the trainer's. ``if_served``: where they were compared, as ``luthier run``
    does. ``required``: a version whose answers were never compared is refused too. ``ignored``: differences are noted."""

    @property
    def needs_tokens(self) -> str | None:
        """The first setting that only a model that answers token by token can satisfy."""
        settings = {"max_first_token_s": self.max_first_token_s, "max_inter_token_ms": self.max_inter_token_ms}
        return next((f"gate.{name}" for name, value in settings.items() if value is not None), None)

    @property
    def needs_serving(self) -> str | None:
        """The first setting that only a version that was served can satisfy."""
        return self.needs_tokens or ("gate.parity=required" if self.parity == "required" else None)
