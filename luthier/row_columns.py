"""Source records under luthier's column names, by ``datasets[].columns``."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from luthier.errors import DataError
from luthier.row_formats import COLUMNS, FORMATS


def renamed(record: Mapping[str, Any], columns: Mapping[str, str], where: str) -> Mapping[str, Any]:
    """A record with its columns under luthier's names.

    Other columns stay, except those by which the row would be of a format that ``columns`` does not name.

    Args:
        record: The parsed record.
        columns: Luthier's name to the file's, which may lead into nested objects by dots.
        where: ``file:line``, for messages.

    Raises:
        DataError: The record lacks a column.
    """
    if not columns:
        return record
    meant = {name for names in FORMATS.values() if set(columns) - {"input"} <= set(names) for name in names} | {"input"}
    kept = {name: value for name, value in record.items() if name in meant or name not in COLUMNS}
    return {
        **kept,
        **{ours: _found(record, theirs, f"{where}: datasets[].columns.{ours}") for ours, theirs in columns.items()},
    }


def _found(record: Mapping[str, Any], path: str, where: str) -> Any:
    if path in record:
        return record[path]
    value: Any = record
    parts = path.split(".")
    for depth, part in enumerate(parts):
        if not isinstance(value, Mapping):
            raise DataError(
                f"{where}: {'.'.join(parts[:depth])!r} is {type(value).__name__}, which has no {part!r} in it."
            )
        if part not in value:
            raise DataError(f"{where}: the row has no column {'.'.join(parts[: depth + 1])!r}; {_hint(part, value)}")
        value = value[part]
    return value


def _hint(name: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, list(map(str, known)), n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(map(str, known))) or 'none'}."
