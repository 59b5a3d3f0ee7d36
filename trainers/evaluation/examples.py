"""Rows that show what fine-tuning changed: those that tuned and base answer differently."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from luthier.trainers.evaluation.labels import normalise

KINDS = {
    "fixed": "Put right by tuning",
    "broken": "Right before, wrong now",
    "other": "Still wrong, in another way",
}
"""What can have become of a row, in the order of the report."""

_SHOWN = {"fixed": 6, "broken": 6, "other": 3}
_MAX_CHARS = 280


def changed_rows(examples: Sequence[Mapping[str, Any]], *, labelled: bool) -> list[dict[str, Any]]:
    """Groups of rows whose tuned answer differs from the base model's.

    Args:
        examples: Rows with ``row_id``, ``text``, ``label`` and an answer for each variant.
        labelled: Whether answers are labels, which are compared normalised; else whole texts are.

    Returns:
        A dict for each kind of change that occurred: its ``title``, how many rows (``count``), and the first ``rows``
        with their texts shortened.
    """

    def form(text: object) -> str:
        return normalise(str(text)) if labelled else str(text).strip()

    found: dict[str, list[Mapping[str, Any]]] = {kind: [] for kind in KINDS}
    for row in examples:
        if "base" not in row or "tuned" not in row:
            continue
        truth, base, tuned = form(row["label"]), form(row["base"]), form(row["tuned"])
        if base != tuned:
            found["fixed" if tuned == truth else "broken" if base == truth else "other"].append(row)
    return [
        {"title": KINDS[kind], "count": len(rows), "rows": [_shown(row, form) for row in rows[: _SHOWN[kind]]]}
        for kind, rows in found.items()
        if rows
    ]


def _shown(row: Mapping[str, Any], form: Any) -> dict[str, Any]:
    truth = form(row["label"])
    answers = {
        name: {"text": shorten(str(row[name])), "right": form(row[name]) == truth}
        for name in ("base", "few_shot", "tuned", "incumbent")
        if name in row
    }
    texts = {name: shorten(str(row[name])) for name in ("row_id", "text", "label")}
    return {**texts, "answers": answers}


def shorten(text: str, limit: int = _MAX_CHARS) -> str:
    """A text's first characters, with a mark where some were left off."""
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"
