"""What a live endpoint is to its callers."""

from __future__ import annotations

from dataclasses import dataclass

from luthier.precision import Dtype


@dataclass(frozen=True)
class Endpoint:
    """A live endpoint.

    Attributes:
        base_url: ``http://host:port/v1``.
        models: Names that requests may ask for.
        app_name: The Ray Serve application.
        dtype: What its engines compute in.
        started_serve: Whether Ray Serve was started for it, and ends with it.
    """

    base_url: str
    models: tuple[str, ...]
    app_name: str
    dtype: Dtype
    started_serve: bool
