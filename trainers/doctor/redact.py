"""Rows without the personal data in them."""

from __future__ import annotations

import os
from dataclasses import replace

from luthier.config.checks import RedactionConfig
from luthier.digests import sha256_json
from luthier.errors import ConfigError
from luthier.pii import Kind, Redactor
from luthier.rows import Row


def redaction_key(settings: RedactionConfig) -> bytes:
    """The key of the digests of ``hash``; empty where none is needed.

    Raises:
        ConfigError: The variable that holds it is not set.
    """
    if settings.hash_key_env is None:
        return b""
    key = os.environ.get(settings.hash_key_env)
    if not key:
        raise ConfigError(
            f"data.redact.hash_key_env: {settings.hash_key_env} is not set or empty; set it, or use data.redact: mask."
        )
    return key.encode()


def key_mark(settings: RedactionConfig | None) -> str | None:
    """What tells rows that were hashed with one key from those hashed with another; not the key.

    Raises:
        ConfigError: As :func:`redaction_key`.
    """
    if settings is None or settings.hash_key_env is None:
        return None
    return sha256_json({"key of data.redact": redaction_key(settings).hex()})


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
        settings = self._settings
        redactor = Redactor(settings.way, settings.kinds, settings.phone_regions, self._key)
        learnt = len(row.messages) - 1 if row.label is not None else len(row.messages)
        messages = tuple(
            replace(message, content=redactor.text(message.content)) if place < learnt else message
            for place, message in enumerate(row.messages)
        )
        text, rejected = (None if one is None else redactor.text(one) for one in (row.text, row.rejected))
        return replace(row, messages=messages, text=text, rejected=rejected), tuple(redactor.counts)
