"""Where personal data and secrets stand in a text.

Every pattern takes time that grows evenly with the text's length, whoever wrote the text: repetitions are bounded, or
possessive (``++``, ``{8,}+``) behind a lookbehind that lets each run of characters begin once.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Literal, NamedTuple, get_args

from luthier.pii import network, numbers, secrets

Kind = Literal["secret", "email", "iban", "card", "ip", "phone"]
"""What is looked for."""

KINDS: tuple[Kind, ...] = get_args(Kind)
"""All kinds; where two claim the same characters, the one that stands first here names them."""

DEFAULT_REGIONS = ("US",)


class Span(NamedTuple):
    """A place in a text."""

    start: int
    end: int
    kind: Kind


_FINDERS: dict[Kind, Callable[[str, Sequence[str]], Iterator[tuple[int, int]]]] = {
    "secret": lambda text, regions: secrets.secrets(text),
    "email": lambda text, regions: network.emails(text),
    "iban": lambda text, regions: numbers.ibans(text),
    "card": lambda text, regions: numbers.cards(text),
    "ip": lambda text, regions: network.addresses(text),
    "phone": numbers.phones,
}


def find(text: str, kinds: Collection[Kind] = KINDS, regions: Sequence[str] = DEFAULT_REGIONS) -> list[Span]:
    """Every place in a text, in order; none overlaps another.

    Args:
        text: Any text.
        kinds: What is looked for.
        regions: Countries (ISO 3166, two letters) whose telephone numbers are found without ``+`` and country code.
    """
    plain = _folded(text)
    if not _may_hold(plain):
        return []
    found = [Span(*place, kind) for kind in KINDS if kind in kinds for place in _FINDERS[kind](plain, regions)]
    merged: list[Span] = []
    for span in sorted(found):
        if merged and span.start < merged[-1].end:
            before = merged.pop()
            kind = min(before.kind, span.kind, key=KINDS.index)
            span = Span(before.start, max(before.end, span.end), kind)
        merged.append(span)
    return merged


def _may_hold(plain: str) -> bool:
    """Whether anything can stand in a text: each kind needs a digit, but an address its ``@``, as a password in a URL does, a
    private key its first line, and an IPv6 address its colons.
    """
    return (
        any(map(str.isdigit, set(plain)))
        or "@" in plain
        or secrets.BEGIN_OF_KEY in plain
        or network.may_hold_ipv6(plain)
    )


class _Fold(dict[int, int]):
    """Characters to the plain ones that they stand for, one to one, so that places stay what they are."""

    def __missing__(self, code: int) -> int:
        character = chr(code)
        plain = unicodedata.normalize("NFKC", character)
        if unicodedata.category(character) == "Nd":
            plain = str(unicodedata.decimal(character))
        elif unicodedata.category(character) == "Pd":
            plain = "-"
        self[code] = ord(plain) if len(plain) == 1 else code
        return self[code]


_FOLD = _Fold()


def _folded(text: str) -> str:
    """The text with digits of other scripts, dashes, and full-width letters as ASCII has them."""
    return text if text.isascii() else text.translate(_FOLD)
