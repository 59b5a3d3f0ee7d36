"""What a run teaches. Each objective is one file behind :class:`Objective`."""

from __future__ import annotations

from luthier.trainers.objectives.base import Objective, Tally, build_objective

__all__ = ["Objective", "Tally", "build_objective"]
