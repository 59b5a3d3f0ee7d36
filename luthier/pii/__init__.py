"""Personal data and secrets in text: found, and masked, hashed or left out."""

from __future__ import annotations

from luthier.pii.finding import KINDS, Kind, Span, find
from luthier.pii.redacting import Redactor, Way

__all__ = ["KINDS", "Kind", "Redactor", "Span", "Way", "find"]
