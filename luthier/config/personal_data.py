"""What counts as personal data where text is rid of it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from luthier.config.base import Config
from luthier.pii import KINDS, Kind

Region = Annotated[str, Field(pattern=r"^[A-Z]{2}$")]


class PersonalDataConfig(Config):
    """Personal data and secrets that are found, to be replaced."""

    kinds: Annotated[tuple[Kind, ...], Field(min_length=1)] = KINDS
    """What is looked for: secret (API keys, tokens, passwords), email, iban, card, ip, phone."""

    phone_regions: tuple[Region, ...] = ("US",)
    """Countries (ISO 3166) whose telephone numbers are found as they are written there; numbers with ``+`` and country code
    always are."""
