"""What a live endpoint is to its callers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from luthier.precision import Dtype
from luthier.serving.spec import Task


@dataclass(frozen=True)
class Endpoint:
    """A live endpoint.

    Attributes:
        base_url: ``http://host:port/v1``.
        tasks: What each name that requests may ask for does.
        app_name: The Ray Serve application.
        dtype: What its engines compute in.
        started_serve: Whether Ray Serve was started for it, and ends with it.
    """

    base_url: str
    tasks: Mapping[str, Task]
    app_name: str
    dtype: Dtype
    started_serve: bool

    @property
    def models(self) -> tuple[str, ...]:
        """Names that requests may ask for."""
        return tuple(self.tasks)
