"""Several runs that train adapters on one frozen base, in one process: every forward and backward pass is for all."""

from __future__ import annotations

from luthier.trainers.together.together import Together, Told

__all__ = ["Together", "Told"]
