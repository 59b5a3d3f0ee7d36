"""Types that the fields of several requests share."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from luthier.serving.names import Refused
from luthier.serving.replies import Failure

MAX_INT64 = 2**63 - 1

Text = Annotated[str, Field(max_length=1 << 24)]
Label = Annotated[str, Field(max_length=512)]
TokenId = Annotated[int, Field(ge=0, le=MAX_INT64)]


class RequestPart(BaseModel):
    """A request, or a part of one; a field that it does not have is refused."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


def require(asked: int, most: int | None, field: str, unit: str) -> None:
    """Refuse more than a limit allows.

    Raises:
        Refused: Names the field, how many there are, and the limit.
    """
    if most is not None and asked > most:
        raise Refused(Failure(400, f"{field}: {asked} {unit}; this endpoint allows {most}.", param=field))


def is_batch(given: object) -> bool:
    """Whether a field of one or several prompts holds several: a list, and not of one prompt's tokens."""
    return isinstance(given, list) and bool(given) and not isinstance(given[0], int)
