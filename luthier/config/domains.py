"""What a searched setting may be."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from luthier.config.base import Config


class _Domain(Config):
    when: dict[str, Any] = {}
    """Other searched paths to the value, or list of values, that they must have for this one to be set at all."""

    @field_validator("when", mode="after")
    @classmethod
    def _lists(cls, value: dict[str, Any]) -> dict[str, Any]:
        return {
            path: tuple(wanted) if isinstance(wanted, list | tuple) else (wanted,) for path, wanted in value.items()
        }


class Choice(_Domain):
    """One of the given values, drawn evenly."""

    type: Literal["choice"]
    values: tuple[Any, ...] = Field(min_length=1)
    """Candidates."""


class Grid(_Domain):
    """Every value, crossed with every other grid."""

    type: Literal["grid"]
    values: tuple[Any, ...] = Field(min_length=1)
    """Candidates."""


class _Range(_Domain):
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


class RandInt(_Range):
    """An integer in [low, high)."""

    type: Literal["randint"]
    low: int
    """Smallest value."""
    high: int
    """One above the largest value."""


Domain = Annotated[Choice | Grid | Uniform | LogUniform | QUniform | RandInt, Field(discriminator="type")]
