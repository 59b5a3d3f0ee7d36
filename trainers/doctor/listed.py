"""Rows that something was found in: how many, and the first of them by their ids, never by their text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

MOST_LISTED = 10
"""Ids that a report names; ``num`` tells how many there are."""


@dataclass(frozen=True)
class Listed:
    """Rows of one split.

    Attributes:
        num: How many.
        rows: Ids of the first; where a row is like an earlier one, ``<id> = <id of that one>``.
    """

    num: int = 0
    rows: tuple[str, ...] = ()


def listed(ids: pa.ChunkedArray, mask_N: npt.NDArray[np.bool_]) -> Listed:
    """The rows at which a mask holds.

    Args:
        ids: Ids of the split's N rows.
        mask_N: Which of them.
    """
    places = np.flatnonzero(mask_N)
    return Listed(len(places), tuple(names(ids, places[:MOST_LISTED])))


def listed_beside(ids: pa.ChunkedArray, places: npt.NDArray[np.int64], like: npt.NDArray[np.int64]) -> Listed:
    """Rows that are like others.

    Args:
        ids: Ids of the rows of all splits.
        places: The rows.
        like: To each, the one that it is like.
    """
    few = slice(MOST_LISTED)
    pairs = zip(names(ids, places[few]), names(ids, like[few]), strict=True)
    return Listed(len(places), tuple(f"{one} = {other}" for one, other in pairs))


def names(ids: pa.ChunkedArray, places: Sequence[int] | npt.NDArray[np.int64]) -> list[str]:
    """Ids at some places."""
    return [str(ids[int(place)].as_py()) for place in places]
