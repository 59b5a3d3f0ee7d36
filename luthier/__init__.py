"""luthier: distributed fine-tuning of language models on Ray, from data to a live endpoint."""

from __future__ import annotations

__version__ = "0.1.0"
