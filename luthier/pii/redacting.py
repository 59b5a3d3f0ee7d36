"""Text without the personal data in it."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any, Literal

from luthier.pii.finding import DEFAULT_REGIONS, KINDS, Kind, find

Way = Literal["mask", "hash", "drop"]
"""What stands in the place of what was found: ``<EMAIL>``; ``<EMAIL:3f2a9c01b7de>``, the same for the same value; nothing."""

_DIGEST_CHARACTERS = 12
_SEPARATORS = re.compile(r"[\s()./-]+")
_ESCAPED = re.compile(r"\\u([0-9a-fA-F]{4})")


class Redactor:
    """Replaces what is found.

    Args:
        way: What stands in its place.
        kinds: What is looked for.
        regions: Countries whose telephone numbers are found without country code.
        key: Secret of the digests, for ``hash``: without it nobody can tell by trying which value a digest is of.

    Attributes:
        counts: How often each kind was found so far.
    """

    def __init__(
        self,
        way: Way = "mask",
        kinds: Collection[Kind] = KINDS,
        regions: Sequence[str] = DEFAULT_REGIONS,
        key: bytes = b"",
    ) -> None:
        if way == "hash" and not key:
            raise ValueError("hash needs a key")
        self._way = way
        self._kinds = frozenset(kinds)
        self._regions = tuple(regions)
        self._key = key
        self.counts: Counter[Kind] = Counter()

    def text(self, text: str) -> str:
        """A text, redacted."""
        pieces: list[str] = []
        place = 0
        for span in find(text, self._kinds, self._regions):
            self.counts[span.kind] += 1
            pieces += (text[place : span.start], self._instead(text[span.start : span.end], span.kind))
            place = span.end
        return "".join((*pieces, text[place:]))

    def value(self, value: Any) -> Any:
        """A JSON value, redacted however deep; keys of objects and numbers count as text."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.value(one) for one in value]
        if isinstance(value, dict):
            return {self.text(str(name)): self.value(one) for name, one in value.items()}
        if isinstance(value, bool) or value is None:
            return value
        told = str(value)
        redacted = self.text(told)
        return value if redacted == told else redacted

    def json_text(self, text: str) -> str:
        """JSON in a text, such as a tool's arguments: still JSON afterwards. Escapes hide nothing, also where it is cut off."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return self.text(_ESCAPED.sub(lambda match: chr(int(match[1], 16)), text))
        return json.dumps(self.value(value), ensure_ascii=False)

    def _instead(self, found: str, kind: Kind) -> str:
        if self._way == "drop":
            return ""
        name = kind.upper()
        if self._way == "mask":
            return f"<{name}>"
        same = _SEPARATORS.sub("", found) if kind in ("card", "iban", "phone") else found
        same = same if kind == "secret" else same.casefold()
        digest = hmac.new(self._key, f"{kind}:{same}".encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()
        return f"<{name}:{digest[:_DIGEST_CHARACTERS]}>"
