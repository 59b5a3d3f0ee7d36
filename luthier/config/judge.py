"""How a trained model is measured, and what it takes to be promoted."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from luthier.config.base import Config

Metric = Literal["accuracy", "precision_macro", "recall_macro", "macro_f1", "weighted_f1", "exact_match", "rouge_l"]
Baseline = Literal["base", "few_shot", "incumbent"]


class EvaluateConfig(Config):
    """The evaluation on the untouched test split."""

    few_shot_k: Annotated[int, Field(ge=0)] = 5
    """Solved training examples in the few-shot baseline's prompt; 0 leaves that baseline out."""

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


class GateConfig(Config):
    """What a candidate must show before an alias moves to it."""

    metric: Metric = "macro_f1"
    """The figure that is compared."""

    against: tuple[Baseline, ...] = ("base", "few_shot", "incumbent")
    """Baselines that must be beaten: the interval of the paired difference must lie above min_delta."""

    min_delta: float = Field(default=0.0, ge=0.0)
    """Smallest gain, in the metric's own unit."""

    min_value: float | None = None
    """Smallest value of the metric itself; None: no bound."""
