"""What a run teaches. Each objective is one file behind :class:`Objective`."""

from __future__ import annotations

from luthier.trainers.objectives.base import Objective, Tally, build_objective
from luthier.trainers.objectives.losses import Losses

__all__ = ["Losses", "Objective", "Tally", "build_objective"]
