"""How workers share the work. Each strategy is one file behind :class:`Strategy`."""

from __future__ import annotations

from luthier.trainers.strategies.base import Strategy, Worker, build_strategy, import_strategy

__all__ = ["Strategy", "Worker", "build_strategy", "import_strategy"]
