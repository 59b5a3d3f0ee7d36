"""The names of the shapes that source records come in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthier.errors import DataError

FORMATS: dict[str, tuple[str, ...]] = {
    "messages": ("messages",),
    "sharegpt": ("conversations",),
    "prompt_completion": ("prompt", "completion"),
    "alpaca": ("instruction", "output"),
    "preference": ("prompt", "chosen", "rejected"),
    "text_label": ("text", "label"),
    "text": ("text",),
}
"""The columns that tell each format; the first whose columns are all there is the record's."""

COLUMNS = {"input"}.union(*FORMATS.values())
"""Every column that some format has; alpaca's ``input`` may be absent."""


def format_of(record: Mapping[str, Any]) -> str | None:
    """The name of the record's format; None: its columns are those of none."""
    return next((name for name, columns in FORMATS.items() if all(column in record for column in columns)), None)


class OneFormat:
    """Holds the rows of one file to the format of the first."""

    def __init__(self) -> None:
        self._first: tuple[str, int] | None = None

    def check(self, record: Mapping[str, Any], name: str, line: int) -> None:
        """Refuse a record whose format is another than the first one's; one of no format is left to its reader.

        Args:
            record: The parsed record.
            name: What messages call the file.
            line: The record's line.

        Raises:
            DataError: The formats differ.
        """
        found = format_of(record)
        if found is None:
            return
        if self._first is None:
            self._first = (found, line)
        expected, first_line = self._first
        if found != expected:
            raise DataError(
                f"{name}:{line}: the row's format is {found}, that of line {first_line} is {expected}; a file holds one "
                "format, so put the rows into files of their own."
            )
