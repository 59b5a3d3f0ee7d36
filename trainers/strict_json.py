"""JSON read strictly: what the standard parser lets pass or answers with another error is refused here in one way."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn


class StrictJSONError(ValueError):
    """A text that is JSON to a lenient reader only, or more than a parser takes; says what and the remedy."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) == len(pairs):
        return content
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            raise StrictJSONError(f"key {key[:80]!r} is twice in one object; keep one")
        seen.add(key)
    raise AssertionError("a dict is shorter than its pairs only where a key is repeated")


def _constant(name: str) -> NoReturn:
    raise StrictJSONError(f"{name} is no JSON value; write null or a number")


def _float(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise StrictJSONError(f"a number ({digits[:40]}) is larger than a 64-bit float; write it as a string")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_float=_float)


def parse_prefix(text: str, start: int = 0) -> tuple[Any, int]:
    """The JSON value that begins at ``start``, and the index behind it.

    Raises:
        json.JSONDecodeError: It is not JSON.
        StrictJSONError: A key is repeated in one object, a number is NaN or too large, or the nesting too deep.
    """
    try:
        return _DECODER.raw_decode(text, start)
    except RecursionError as error:
        raise StrictJSONError("nested too deeply to be parsed; flatten the record") from error
    except (json.JSONDecodeError, StrictJSONError):
        raise
    except ValueError as error:  # the interpreter's limit on the digits of an integer
        raise StrictJSONError("an integer has too many digits to be parsed; write it as a string") from error


def parse(text: str) -> Any:
    """The one JSON value of a text.

    Raises:
        json.JSONDecodeError: It is not JSON, or more follows.
        StrictJSONError: As :func:`parse_prefix`.
    """
    stripped = text.lstrip(" \t\r\n")
    value, end = parse_prefix(text, len(text) - len(stripped))
    if text[end:].strip(" \t\r\n"):
        raise json.JSONDecodeError("Extra data", text, end)
    return value
