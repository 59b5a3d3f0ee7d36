"""A redactor by its settings."""

from __future__ import annotations

import os

from luthier.config.checks import RedactionConfig
from luthier.errors import ConfigError
from luthier.pii.redacting import Redactor


def key_of(settings: RedactionConfig, place: str) -> bytes:
    """The key of the digests of ``hash``, from this process's environment; empty where none is needed.

    Args:
        settings: What is taken out.
        place: Where they stand in the config, for the message.

    Raises:
        ConfigError: The variable that holds it is not set.
    """
    if settings.hash_key_env is None:
        return b""
    key = os.environ.get(settings.hash_key_env)
    if not key:
        raise ConfigError(
            f"{place}.hash_key_env: environment variable {settings.hash_key_env} is not set or empty; set it, or use way: mask."
        )
    return key.encode()


def redactor_of(settings: RedactionConfig, key: bytes) -> Redactor:
    """A redactor whose counts begin at nothing."""
    return Redactor(settings.way, settings.kinds, settings.phone_regions, key)
