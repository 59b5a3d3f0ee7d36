"""Rows without the personal data in them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from luthier.config.checks import RedactionConfig
from luthier.digests import sha256_json
from luthier.pii import Kind
from luthier.pii.configured import key_of, redactor_of
from luthier.rows import Row

PLACE = "data.redact"
"""Where the settings stand in the config."""


def key_mark(settings: RedactionConfig | None) -> str | None:
    """What tells rows that were hashed with one key from those hashed with another; not the key.

    Raises:
        ConfigError: The key is not there.
    """
    if settings is None or settings.hash_key_env is None:
        return None
    return sha256_json({f"key of {PLACE}": key_of(settings, PLACE).hex()})


def row_redactor(settings: RedactionConfig | None) -> RowRedactor | None:
    """What changes rows by settings; None: nothing does.

    Raises:
        ConfigError: The key is not there.
    """
    return None if settings is None else RowRedactor(settings, key_of(settings, PLACE))


def redacted(rows: Iterable[Row], settings: RedactionConfig | None) -> list[Row]:
    """Rows that are judged, changed as those were that were learned.

    Raises:
        ConfigError: The key is not there.
    """
    redactor = row_redactor(settings)
    return [redactor(row)[0] for row in rows] if redactor else list(rows)


class RowRedactor:
    """Takes personal data out of rows.

    Args:
        settings: What is taken out.
        key: Of the digests of ``hash``.
    """

    def __init__(self, settings: RedactionConfig, key: bytes) -> None:
        self._settings = settings
        self._key = key

    def __call__(self, row: Row) -> tuple[Row, tuple[Kind, ...]]:
        """The row without it, and what kinds were found. A label stays, also where it is the answer."""
        redactor = redactor_of(self._settings, self._key)
        learnt = len(row.messages) - 1 if row.label is not None else len(row.messages)
        messages = tuple(
            replace(message, content=redactor.text(message.content)) if place < learnt else message
            for place, message in enumerate(row.messages)
        )
        text, rejected = (None if one is None else redactor.text(one) for one in (row.text, row.rejected))
        return replace(row, messages=messages, text=text, rejected=rejected), tuple(redactor.counts)
