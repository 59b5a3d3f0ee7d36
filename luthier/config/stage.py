"""Trainings in sequence: what each stage of a run learns, and what it may forget."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from luthier.config.base import Config


class StageConfig(Config):
    """One training of a run that has several; it starts from the weights that the stage before it ended with."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    """Name of the stage, also of its directory."""

    datasets: tuple[str, ...] | None = None
    """Names of the datasets that it learns from; None: all."""

    train: dict[str, Any] = {}
    """Settings of ``train`` that are others than the run's; not those that shape the trained weights."""

    data: dict[str, Any] = {}
    """Settings of ``data`` that are others than the run's."""

    max_forgetting: float | None = Field(default=None, ge=0.0)
    """How far the validation loss of an earlier stage's task may rise above what it was when that stage ended, as a
    share of it; beyond that the run is refused. None: it is told, and never refused."""
