"""A ``.json`` file, one list of rows, read row by row."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from luthier.errors import DataError
from luthier.trainers.strict_json import StrictJSONError, parse_prefix

_CHUNK_BYTES = 1 << 16
_SPACE = " \t\r\n"
_TOKEN_CHARS = 16
"""More than the longest name or escape of JSON: what is wrong that far before the end is wrong whatever follows."""


class _Window:
    """The decoded part of a stream that is not yet consumed; ``text[at]`` comes next."""

    def __init__(self, stream: BinaryIO, name: str, max_row_bytes: int) -> None:
        self.text, self.at, self.line, self.ended = "", 0, 1, False
        self._stream, self._name, self._limit = stream, name, max_row_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._read_bytes = 0
        self._line_start = 0  # of the line that text[at] is on, as an index into text; negative: dropped already

    def more(self) -> None:
        """Read on: as much again as is held, so that a long row is tried few times."""
        self._refuse_long(len(self.text))
        self.text, self._line_start, self.at = self.text[self.at :], self._line_start - self.at, 0
        raw = self._stream.read(max(_CHUNK_BYTES, len(self.text)))
        held = len(self._decoder.getstate()[0])
        try:
            self.text += self._decoder.decode(raw, final=not raw)
        except UnicodeDecodeError as error:
            place = self._read_bytes - held + error.start + 1
            raise DataError(f"{self._name}: byte {place} is not UTF-8; save the file as UTF-8.") from error
        self._read_bytes += len(raw)
        self.ended = not raw

    def _refuse_long(self, end: int) -> None:
        if end - self.at > self._limit:
            raise DataError(f"{self._name}:{self.line}: a row is longer than {self._limit} bytes; split or drop it.")

    def advance(self, end: int) -> None:
        """Consume up to an index, counting lines."""
        breaks = self.text.count("\n", self.at, end)
        if breaks:
            self.line += breaks
            self._line_start = self.text.rindex("\n", self.at, end) + 1
        self.at = end

    def peek(self) -> str:
        """The next character that is not white space, which is now at ``text[at]``; empty at the end."""
        while True:
            end = self.at
            while end < len(self.text) and self.text[end] in _SPACE:
                end += 1
            self.advance(end)
            if end < len(self.text) or self.ended:
                return self.text[end : end + 1]
            self.more()

    def value(self) -> Any:
        """The JSON value that begins here, consumed."""
        while True:
            try:
                value, end = parse_prefix(self.text, self.at)
            except StrictJSONError as error:
                raise DataError(f"{self._name}:{self.line}: {error}.") from error
            except json.JSONDecodeError as error:
                open_string = error.msg.startswith("Unterminated string")
                if self.ended or (not open_string and error.pos < len(self.text) - _TOKEN_CHARS):
                    self.advance(len(self.text) if open_string else error.pos)
                    raise self.invalid(error.msg) from error
            else:
                if end < len(self.text) or self.ended:
                    self._refuse_long(end)
                    self.advance(end)
                    return value
            self.more()

    def invalid(self, reason: str) -> DataError:
        """What is refused here."""
        if self.ended and not self.text[self.at :].strip(_SPACE):
            return DataError(f"{self._name}:{self.line}: the file ends in the middle of a record; copy it again.")
        column = self.at - self._line_start + 1
        return DataError(f"{self._name}:{self.line}: not valid JSON at column {column}: {reason}.")


def json_rows(stream: BinaryIO, name: str, max_row_bytes: int) -> Iterator[tuple[int, Any]]:
    """The members of the list that the stream holds, counted from one; one at a time.

    Args:
        stream: UTF-8 JSON.
        name: What messages call the file.
        max_row_bytes: A longer member is refused; some twice of it is held.

    Raises:
        DataError: It is no list, or not strict JSON; the message names the line.
    """
    window = _Window(stream, name, max_row_bytes)
    first = window.peek()
    if first != "[":
        kind = type(window.value()).__name__
        raise DataError(f"{name}: holds {kind}; a .json file must be a list of rows (one object a line is .jsonl).")
    window.advance(window.at + 1)
    number, done = 0, window.peek() == "]"
    while not done:
        number += 1
        yield number, window.value()
        separator = window.peek()
        if separator not in (",", "]"):
            raise window.invalid("Expecting ',' delimiter")
        done = separator == "]"
        if not done:
            window.advance(window.at + 1)
            window.peek()
    window.advance(window.at + 1)
    if window.peek():
        raise window.invalid("Extra data")
