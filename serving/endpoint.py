"""What a live endpoint is to its callers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from luthier.precision import Dtype
from luthier.serving.front import Front
from luthier.serving.spec import Task


@dataclass(frozen=True)
class Endpoint:
    """A live endpoint.

    Attributes:
        base_url: ``http://host:port/v1``.
        tasks: What each name that requests may ask for does.
        dtype: What its engines compute in.
        front: What it was told.
    """

    base_url: str
    tasks: Mapping[str, Task]
    dtype: Dtype
    front: Front

    @property
    def models(self) -> tuple[str, ...]:
        """Names that requests may ask for."""
        return tuple(self.tasks)
