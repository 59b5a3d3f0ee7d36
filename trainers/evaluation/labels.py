"""Which label an answer means."""

from __future__ import annotations

from collections.abc import Sequence

from luthier.errors import DataError
from luthier.evaluation_schema import OTHER

_TRAILING = ".,;:!? \t"


def normalise(text: str) -> str:
    """The part of an answer that names a label: its first line, casefolded, without trailing punctuation.

    >>> normalise("  Science.\\nBecause it is about physics.")
    'science'
    """
    first_line = next(iter(text.strip().splitlines()), "")
    return first_line.strip().casefold().rstrip(_TRAILING)


class LabelSet:
    """Turns answers and true labels into class indices.

    Args:
        labels: The classes, in their order.

    Raises:
        DataError: Two labels differ only in what :func:`normalise` drops, or one is empty or reserved.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = tuple(labels)
        self._index: dict[str, int] = {}
        for index, label in enumerate(self.labels):
            key = normalise(label)
            if not key or label == OTHER:
                raise DataError(f"label {label!r} can't be used: it is empty or reserved; rename it.")
            if key in self._index:
                twin = self.labels[self._index[key]]
                raise DataError(f"labels {twin!r} and {label!r} differ only in case or punctuation; rename one.")
            self._index[key] = index

    @property
    def other(self) -> int:
        """Index of the column for answers that are no label."""
        return len(self.labels)

    def of_answer(self, answer: str) -> int:
        """Index of the answered label; :attr:`other` where it is none."""
        return self._index.get(normalise(answer), self.other)

    def of_truth(self, label: str, row_id: str) -> int:
        """Index of a true label.

        Raises:
            DataError: It is none of the labels.
        """
        index = self.of_answer(label)
        if index == self.other:
            known = ", ".join(self.labels)
            raise DataError(f"{row_id}: label {label!r} is not one of the labels ({known}); correct the row or add it.")
        return index
