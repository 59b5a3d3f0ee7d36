"""Rows that are nearly the same, of any number of rows: those whose signatures share a band are compared, nothing else.

Bands are sorted one after another as arrays, so that a row takes some 100 bytes, and its signature is looked at in the
mapped file. Shape legend: N rows, P places of a signature.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from luthier.trainers.doctor.signatures import BAND_PLACES, NUM_PLACES, likeness

_COMPARED_PAIRS = 100_000
"""Pairs that are compared at a time: 26 MB of signatures."""

Places = npt.NDArray[np.int64]


def near_pairs(signatures: pa.ChunkedArray, rows: Places, least: float) -> Iterator[tuple[Places, Places]]:
    """Pairs of rows that are at least so much alike, the earlier one first; some come more than once.

    Of rows that share a band each is compared with the first and with the one before it, so that the time grows with
    the rows, not with the pairs.

    Args:
        signatures: Of all rows.
        rows: Places of the rows to compare, in order.
        least: Similarity.
    """
    for band in range(NUM_PLACES // BAND_PLACES):
        key = _band(signatures, band)[rows]
        order = np.argsort(key, kind="stable")
        key = key[order]
        follows = np.concatenate(([False], key[1:] == key[:-1])) if len(key) else np.zeros(0, dtype=bool)
        begin = np.maximum.accumulate(np.where(follows, 0, np.arange(len(key))))
        later = np.flatnonzero(follows)
        for earlier in (later - 1, begin[later]):
            yield from _alike(signatures, rows[order[earlier]], rows[order[later]], least)


def _band(signatures: pa.ChunkedArray, band: int) -> npt.NDArray[np.uint64]:
    """One band of all signatures."""
    columns = [matrix(chunk)[:, band * BAND_PLACES : (band + 1) * BAND_PLACES] for chunk in signatures.chunks]
    whole = np.concatenate([np.ascontiguousarray(column) for column in columns])
    return whole.view(np.uint64).reshape(-1)


def _alike(signatures: pa.ChunkedArray, left: Places, right: Places, least: float) -> Iterator[tuple[Places, Places]]:
    for start in range(0, len(left), _COMPARED_PAIRS):
        one, other = left[start : start + _COMPARED_PAIRS], right[start : start + _COMPARED_PAIRS]
        shares = likeness(*(matrix(signatures.take(pa.array(places)).combine_chunks()) for places in (one, other)))
        yield one[shares >= least], other[shares >= least]


def matrix(signatures: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.uint8]:
    """Signatures as N rows of P bytes, where they lie."""
    whole = signatures.chunk(0) if isinstance(signatures, pa.ChunkedArray) else signatures
    data = np.frombuffer(whole.buffers()[1], dtype=np.uint8)
    return data[whole.offset * NUM_PLACES : (whole.offset + len(whole)) * NUM_PLACES].reshape(-1, NUM_PLACES)


class Groups:
    """Rows joined pair by pair; who is like one of a group belongs to it.

    Args:
        num_rows: How many rows there are.
    """

    def __init__(self, num_rows: int) -> None:
        self.first: Places = np.arange(num_rows)
        """To each row, the first of its group."""

    def join(self, left: Places, right: Places) -> None:
        """Join each pair's groups."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        if not len(left):
            return
        ends = np.unique(np.concatenate((self.first[left], self.first[right])))
        edges = (np.searchsorted(ends, self.first[left]), np.searchsorted(ends, self.first[right]))
        graph = coo_array((np.ones(len(left), dtype=bool), edges), shape=(len(ends), len(ends)))
        _, group = connected_components(graph, directed=False)
        heads = np.full(group.max() + 1, len(self.first))
        np.minimum.at(heads, group, ends)
        lead = self.first.copy()
        lead[ends] = heads[group]
        self.first = lead[self.first]
