"""Rows that show what fine-tuning changed: those that the tuned model and a rival answer differently."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from luthier.trainers.evaluation.labels import normalise

RIVALS = ("base", "incumbent")
"""Against whom rows are told."""

KINDS = {
    "fixed": "Put right by tuning",
    "broken": "Right before, wrong now",
    "other": "Still wrong, in another way",
}
"""What can have become of a row, in the order of the report; "before" is the rival's answer."""

MAX_NAMED = 200
"""Rows that are named where a list of them is long."""

_SHOWN = {"fixed": 6, "broken": 6, "other": 3}
_MAX_CHARS = 280


def changed_rows(examples: Sequence[Mapping[str, Any]], *, labelled: bool, rival: str = "base") -> list[dict[str, Any]]:
    """Groups of rows whose tuned answer differs from a rival's.

    Args:
        examples: Rows with ``row_id``, ``text``, ``label`` and an answer for each variant.
        labelled: Whether answers are labels, which are compared normalised; else whole texts are.
        rival: The other variant.

    Returns:
        A dict for each kind of change that occurred: its ``kind`` and ``title``, how many rows (``count``), the ``row_ids`` of
        the first 200, and the first ``rows`` with their texts shortened.
    """

    def form(text: object) -> str:
        return normalise(str(text)) if labelled else str(text).strip()

    found: dict[str, list[Mapping[str, Any]]] = {kind: [] for kind in KINDS}
    for row in examples:
        if rival not in row or "tuned" not in row:
            continue
        truth, before, tuned = form(row["label"]), form(row[rival]), form(row["tuned"])
        if before != tuned:
            found["fixed" if tuned == truth else "broken" if before == truth else "other"].append(row)
    return [
        {
            "kind": kind,
            "title": KINDS[kind],
            "count": len(rows),
            "row_ids": [shorten(str(row["row_id"])) for row in rows[:MAX_NAMED]],
            "rows": [_shown(row, form) for row in rows[: _SHOWN[kind]]],
        }
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
