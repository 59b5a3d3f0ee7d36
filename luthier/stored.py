"""What every schema of a stored file shares."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=0)]


class Stored(BaseModel):
    """A part of a file that is kept: frozen, without unknown fields, and without figures that JSON has no form for."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)
