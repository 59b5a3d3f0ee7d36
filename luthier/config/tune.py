"""What a sweep tries, and how much it may spend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, get_origin

from pydantic import Field, field_validator, model_validator

from luthier.config.base import Config
from luthier.config.train import TrainConfig

_MAPPINGS = {name for name, field in TrainConfig.model_fields.items() if get_origin(field.annotation) is dict}
"""Settings whose own value is a mapping."""


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
    """Settings of every trial that the final run does not have, such as fewer epochs; dotted or nested."""

    scheduler: Literal["asha", "none"] = "asha"
    """``asha`` stops weak trials early (Li et al. 2020)."""

    grace_period: Annotated[int, Field(ge=1)] = 1
    """Validations that every trial gets before it can be stopped."""

    reduction_factor: Annotated[int, Field(ge=2)] = 2
    """At each rung one trial in this many goes on."""

    max_concurrent_trials: Annotated[int, Field(ge=1)] | None = None
    """Trials at a time; None: as many as the cluster's resources hold."""

    @model_validator(mode="after")
    def _losses_fall(self) -> TuneConfig:
        if self.metric in ("eval_loss", "loss") and self.mode != "min":
            raise ValueError(f"mode is {self.mode}, but less {self.metric} is better; set mode: min")
        return self

    @field_validator("overrides", mode="before")
    @classmethod
    def _overrides_are_dotted(cls, value: Any) -> Any:
        """``{train: {max_steps: 4}}`` means ``{train.max_steps: 4}``, and leaves the rest of ``train`` as it is."""
        if not isinstance(value, Mapping):
            return value
        leaves = list(_leaves(value))
        twice = [path for path, _ in leaves if sum(path == other for other, _ in leaves) > 1]
        if twice:
            raise ValueError(f"{twice[0]} is set twice, dotted and nested; keep one")
        return dict(leaves)


def _leaves(settings: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted path and value of every setting below a mapping."""
    for key, value in settings.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and value and path.rpartition(".")[2] not in _MAPPINGS:
            yield from _leaves(value, f"{path}.")
        else:
            yield path, value
