"""Labels of rows: how many have each, and which rows contradict each other."""

from __future__ import annotations

from collections.abc import Collection
from typing import cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc


def counts(column: pa.ChunkedArray) -> dict[str, int]:
    """How often each value stands in a column of strings, the most frequent first."""
    pairs = [
        (one["values"].as_py(), one["counts"].as_py()) for one in pc.value_counts(column.drop_null().combine_chunks())
    ]
    return dict(sorted(pairs, key=lambda pair: (-pair[1], pair[0])))


def unknown(labels: pa.ChunkedArray, known: Collection[str]) -> npt.NDArray[np.bool_]:
    """Which rows have a label that is none of the known ones."""
    seen = pc.or_(pc.is_in(labels, pa.array(sorted(known), pa.string())), pc.is_null(labels))
    return cast("npt.NDArray[np.bool_]", ~seen.to_numpy())


def conflicting(asked_N: npt.NDArray[np.uint64], labels: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """Which rows are asked the same as another with another label; rows without a label contradict none.

    Args:
        asked_N: Digests of what the N rows are asked.
        labels: Of the rows.
    """
    coded = pc.fill_null(labels.combine_chunks().dictionary_encode().indices, -1).to_numpy(zero_copy_only=False)
    given = np.flatnonzero(coded >= 0)
    mask_N = np.zeros(len(asked_N), dtype=bool)
    if not len(given):
        return mask_N
    order = given[np.lexsort((coded[given], asked_N[given]))]
    begins = np.flatnonzero(np.concatenate(([True], asked_N[order][1:] != asked_N[order][:-1])))
    least, most = (of.reduceat(coded[order], begins) for of in (np.minimum, np.maximum))
    mask_N[order] = np.repeat(least != most, np.diff([*begins, len(order)]))
    return cast("npt.NDArray[np.bool_]", mask_N)
