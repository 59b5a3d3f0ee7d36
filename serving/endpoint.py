"""What a live endpoint is to its callers."""

from __future__ import annotations

from dataclasses import dataclass

from luthier.precision import Dtype
from luthier.serving.front import Front


@dataclass(frozen=True)
class Endpoint:
    """A live endpoint.

    Attributes:
        base_url: ``http://host:port/v1``.
        models: Names that requests may ask for.
        dtype: What its engines compute in.
        front: What it was told.
    """

    base_url: str
    models: tuple[str, ...]
    dtype: Dtype
    front: Front
