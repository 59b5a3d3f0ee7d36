"""What of a row is compared with other rows, whatever its columns."""

from __future__ import annotations

import hashlib
import unicodedata

from luthier.rows import Row


def asked_of(row: Row) -> str:
    """All that the model is given, the system message too, so that two tasks may ask of one text; of plain text, the text."""
    return "\n".join(message.content for message in row.prompt) or row.text or ""


def said_in(row: Row) -> str:
    """What is a row's own: the text of plain or labelled rows, else its turns and answers without the system's."""
    if row.text is not None:
        return row.text
    turns = [message.content for message in row.messages if message.role != "system"]
    return "\n".join([*turns, row.rejected] if row.rejected else turns)


def normalised(text: str) -> str:
    """A text without what people write in more than one way: capitals, white space, forms of one letter (NFKC)."""
    plain = text if text.isascii() else unicodedata.normalize("NFKC", text)
    return " ".join(plain.casefold().split())


def digest(*texts: str) -> int:
    """64 bits of texts: that two of 10^9 different ones share theirs has a probability of 0.03."""
    joined = "\0".join(texts).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(joined, digest_size=8).digest(), "little")
