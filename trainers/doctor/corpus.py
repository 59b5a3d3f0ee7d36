"""The findings of all splits together, in the order of the splits, by which rows are compared across them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from luthier.trainers.doctor.near import Groups, near_pairs
from luthier.trainers.files import Split

Places = npt.NDArray[np.int64]


class Corpus:
    """Rows of several splits, and which of them are the same, or nearly.

    Args:
        findings: By split, what was found in its rows; the training split, if any, first.
        near: Least similarity of near duplicates; None: they are not looked for.
    """

    def __init__(self, findings: Mapping[Split, pa.Table], near: float | None) -> None:
        table = pa.concat_tables(findings.values())
        self.ids: pa.ChunkedArray = table["row_id"]
        self.asked: npt.NDArray[np.uint64] = table["asked"].to_numpy()
        ends = np.cumsum([0, *(one.num_rows for one in findings.values())])
        self._parts = {split: slice(*ends[place : place + 2].tolist()) for place, split in enumerate(findings)}
        _, first, inverse = np.unique(table["whole"].to_numpy(), return_index=True, return_inverse=True)
        self.same: Places = first[inverse]
        """To each row, the first that is the same as it."""
        groups = Groups(table.num_rows)
        self._near_train = np.zeros(table.num_rows, dtype=bool)
        train = self.part("train").stop
        if near is not None:
            for earlier, later in near_pairs(table["signature"], np.sort(first), near):
                groups.join(earlier, later)
                self._near_train[later[earlier < train]] = True
        self.near: Places = groups.first[self.same]
        """To each row, the first of those that are nearly the same as it."""

    def part(self, split: Split) -> slice:
        """Places of a split's rows; none of a split that is not there."""
        return self._parts.get(split, slice(0, 0))

    def repeated(self, split: Split) -> tuple[Places, Places]:
        """Rows of a split that are the same as an earlier one of it, and that one to each."""
        return self._repeated(split, self.same)

    def nearly_repeated(self, split: Split) -> tuple[Places, Places]:
        """The same of rows that are nearly, and not wholly, the same as an earlier one."""
        rows, like = self._repeated(split, self.near)
        new = ~np.isin(rows, self.repeated(split)[0], assume_unique=True)
        return rows[new], like[new]

    def also_in(self, split: Split, other: Split) -> npt.NDArray[np.bool_]:
        """Which rows of a split are asked what a row of another split is asked too."""
        return np.isin(self.asked[self.part(split)], self.asked[self.part(other)])

    def near_train(self, split: Split) -> npt.NDArray[np.bool_]:
        """Which rows of a split are nearly, or wholly, the same as a training row."""
        part = self.part(split)
        wholly: npt.NDArray[np.bool_] = self.same[part] < self.part("train").stop
        return wholly | self._near_train[self.same[part]]

    def _repeated(self, split: Split, first: Places) -> tuple[Places, Places]:
        part = self.part(split)
        _, begin, inverse = np.unique(first[part], return_index=True, return_inverse=True)
        like = begin[inverse]
        later = np.flatnonzero(like != np.arange(len(like)))
        return later + part.start, like[later] + part.start
