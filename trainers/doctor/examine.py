"""What is found in one row, small enough to be kept for each."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import pyarrow as pa

from luthier.config.checks import ChecksConfig
from luthier.pii import KINDS, Kind, find
from luthier.rows import Row
from luthier.trainers.doctor.languages import language_of
from luthier.trainers.doctor.signatures import NUM_PLACES, signature
from luthier.trainers.doctor.texts import asked_of, digest, normalised, said_in

FORMAT = 1
"""Counts up when what is found, or how it is kept, changes, so that no older findings are read."""

FINDING = pa.struct(
    {
        "row_id": pa.string(),
        "asked": pa.uint64(),  # digest of what the model is given
        "whole": pa.uint64(),  # the same with what is answered
        "signature": pa.binary(NUM_PLACES),
        "language": pa.string(),
        "label": pa.string(),
        "kinds": pa.uint8(),  # of personal data: a bit for each of KINDS, the first the lowest
        "num_characters": pa.int32(),
        "num_tokens": pa.int32(),  # with those that were cut off
    }
)
"""What is kept of a row: some 200 bytes with the id, and none of the text but the label."""


class Examiner:
    """Looks at rows as they are before anything is taken out of them.

    Args:
        checks: What is looked for.
    """

    def __init__(self, checks: ChecksConfig) -> None:
        self._checks = checks

    def __call__(self, row: Row, num_tokens: int) -> dict[str, Any]:
        """What is found in a row, by :data:`FINDING`.

        Args:
            row: The row.
            num_tokens: Of all that it makes, with what is cut off.
        """
        said, asked = said_in(row), normalised(asked_of(row))
        plain = normalised(said)
        return {
            "row_id": row.row_id,
            "asked": digest(asked),
            "whole": digest(asked, plain, row.label or ""),
            "signature": signature(plain) if self._checks.near_duplicates is not None else None,
            "language": language_of(said) if self._checks.languages else None,
            "label": row.label,
            "kinds": bits_of({span.kind for span in self._spans(row)}),
            "num_characters": sum(len(message.content) for message in row.messages) or len(said),
            "num_tokens": num_tokens,
        }

    def _spans(self, row: Row) -> Sequence[Any]:
        if not self._checks.pii:
            return ()
        texts = [message.content for message in row.messages] or [row.text or ""]
        texts += [row.rejected] if row.rejected else []
        return [span for text in texts for span in find(text, self._checks.pii, self._checks.phone_regions)]


def bits_of(kinds: Collection[Kind]) -> int:
    """Kinds of personal data as a number."""
    return sum(1 << place for place, kind in enumerate(KINDS) if kind in kinds)


def findings_key(checks: ChecksConfig) -> dict[str, Any]:
    """What decides what is found in a row: limits that are applied afterwards do not."""
    looked_for = checks.model_dump(mode="json", include={"languages", "pii", "phone_regions"})
    return {"format": FORMAT, **looked_for, "signatures": checks.near_duplicates is not None}
