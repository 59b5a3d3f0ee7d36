"""The language of a text, by a model that an installed package brings."""

from __future__ import annotations

from functools import cache
from typing import Any

UNDECIDED = "und"
"""ISO 639's code for a language that can't be told; nor can that of most texts of a few words."""

_LEAST_PROBABILITY = 0.5
_CHARACTERS = 200
"""Of a text of 2,300 characters all take 0.44 ms, the first 200 some 0.06 ms."""


def language_of(text: str) -> str:
    """ISO 639 code of the language in which a text begins."""
    language, probability = _identifier().classify(text[:_CHARACTERS])
    return str(language) if probability >= _LEAST_PROBABILITY else UNDECIDED


@cache
def _identifier() -> Any:
    """Loaded once in each process, in half a second."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
