"""What a sweep tries, and how much it may spend."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from luthier.config.base import Config


class Choice(Config):
    """One of the given values, drawn evenly."""

    type: Literal["choice"]
    values: tuple[Any, ...] = Field(min_length=1)
    """Candidates."""


class Grid(Config):
    """Every value, crossed with every other grid."""

    type: Literal["grid"]
    values: tuple[Any, ...] = Field(min_length=1)
    """Candidates."""


class _Range(Config):
    low: float
    """Smallest value."""
    high: float
    """Largest value."""

    @model_validator(mode="after")
    def _ordered(self) -> _Range:
        if self.low >= self.high:
            raise ValueError(f"low {self.low} must be below high {self.high}")
        return self


class Uniform(_Range):
    """A real number, drawn evenly."""

    type: Literal["uniform"]


class LogUniform(_Range):
    """A positive real number whose logarithm is drawn evenly."""

    type: Literal["loguniform"]
    low: float = Field(gt=0.0)
    """Smallest value."""


class QUniform(_Range):
    """A real number, drawn evenly and rounded to a multiple of q."""

    type: Literal["quniform"]
    q: float = Field(gt=0.0)
    """Step."""


class RandInt(Config):
    """An integer in [low, high)."""

    type: Literal["randint"]
    low: int
    """Smallest value."""
    high: int
    """One above the largest value."""

    @model_validator(mode="after")
    def _ordered(self) -> RandInt:
        if self.low >= self.high:
            raise ValueError(f"low {self.low} must be below high {self.high}")
        return self


Domain = Annotated[Choice | Grid | Uniform | LogUniform | QUniform | RandInt, Field(discriminator="type")]


class TuneConfig(Config):
    """A hyperparameter sweep on a validation metric. The test split is never read."""

    metric: Literal["eval_loss", "loss"] = "eval_loss"
    """What a trial is judged by."""

    mode: Literal["min", "max"] = "min"
    """Whether less or more of the metric is better."""

    num_samples: Annotated[int, Field(ge=1)] = 8
    """Trials drawn from the space (times the size of the grid, if any)."""

    search_space: dict[str, Domain] = Field(min_length=1)
    """Dotted config path to domain, such as ``train.learning_rate: {type: loguniform, low: 1e-5, high: 1e-3}``."""

    overrides: dict[str, Any] = {}
    """Settings of every trial that the final run does not have, such as fewer epochs."""

    scheduler: Literal["asha", "none"] = "asha"
    """``asha`` stops weak trials early (Li et al. 2020)."""

    grace_period: Annotated[int, Field(ge=1)] = 1
    """Validations that every trial gets before it can be stopped."""

    reduction_factor: Annotated[int, Field(ge=2)] = 2
    """At each rung one trial in this many goes on."""

    max_concurrent_trials: Annotated[int, Field(ge=1)] | None = None
    """Trials at a time; None: as many as the cluster's resources hold."""
