"""Secrets kept out of what a process prints, logs and raises."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast
from urllib.parse import quote

LEAST_CHARACTERS = 8
"""Shorter values would be found everywhere."""

_WRAPPED = r"(?:\s*\n\s*)?"
"""A terminal's width may break a secret in two."""


class Redaction:
    """Replaces secrets that it knows by their names: ``[secret HF_TOKEN]``."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._pattern: re.Pattern[str] | None = None
        self._guards_logging = False
        self._guards_task_errors = False

    def learn(self, name: str, value: str) -> None:
        """Know one more secret: as it is, and as JSON, Python and URLs write it; of several lines, also each line."""
        if len(value) < LEAST_CHARACTERS:
            return
        forms = {value, json.dumps(value)[1:-1], repr(value)[1:-1], quote(value, safe="")}
        forms |= {line.strip() for line in value.splitlines() if len(line.strip()) >= LEAST_CHARACTERS}
        if forms <= self._names.keys():
            return
        self._names.update(dict.fromkeys(forms, name))
        longest_first = sorted(self._names, key=len, reverse=True)
        self._pattern = re.compile("|".join(f"({_WRAPPED.join(map(re.escape, form))})" for form in longest_first))
        self._in_order = [self._names[form] for form in longest_first]

    def text(self, text: str) -> str:
        """A text without secrets."""
        if self._pattern is None:
            return text
        return self._pattern.sub(lambda match: f"[secret {self._in_order[(match.lastindex or 1) - 1]}]", text)

    def error(self, error: BaseException) -> BaseException:
        """An error, and those that led to it, without secrets: the same where its arguments can be changed.

        Returns:
            The error; where its text still holds a secret, one that tells the redacted text instead.
        """
        if self._pattern is None:
            return error
        seen: set[int] = set()
        pending: list[BaseException | None] = [error]
        while pending:
            one = pending.pop()
            if one is None or id(one) in seen:
                continue
            seen.add(id(one))
            self._clean(one)
            pending += [one.__cause__, one.__context__]
        if self.text(told := _told(error)) != told:
            return RuntimeError(f"{type(error).__name__}: {self.text(told)}")
        return error

    def _clean(self, error: BaseException) -> None:
        error.args = tuple(self.text(part) if isinstance(part, str) else part for part in error.args)
        for name in (*vars(error), "filename", "filename2", "strerror"):  # the last three are slots of an OSError
            value = getattr(error, name, None)
            if isinstance(value, str | os.PathLike) and self.text(str(value)) != str(value):
                setattr(error, name, self.text(str(value)))

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Errors leave the block without secrets."""
        try:
            yield
        except Exception as error:
            cleaned = self.error(error)
            if cleaned is error:
                raise
            raise cleaned.with_traceback(error.__traceback__) from None

    def guard_streams(self) -> None:
        """From now on standard output and standard error of this process are written without secrets."""
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is not None and not isinstance(stream, _Guarded):
                setattr(sys, name, cast(TextIO, _Guarded(stream, self)))

    def guard_logging(self) -> None:
        """From now on every record of the logging module is made without secrets, whichever handler writes it."""
        if self._guards_logging:
            return
        self._guards_logging = True
        make = logging.getLogRecordFactory()
        logging.setLogRecordFactory(lambda *args, **kwargs: self._record(make(*args, **kwargs)))

    def guard_task_errors(self) -> None:
        """From now on errors of this process's Ray tasks and actors reach other processes, and Ray's own records of what
        failed, without secrets."""
        if self._guards_task_errors:
            return
        self._guards_task_errors = True
        from ray.exceptions import RayTaskError

        make: Callable[..., None] = RayTaskError.__init__

        def init(told: Any, function: str, traceback_str: str, cause: BaseException, *args: Any, **kwargs: Any) -> None:
            make(told, function, self.text(traceback_str), self.error(cause), *args, **kwargs)

        RayTaskError.__init__ = init

    def _record(self, record: logging.LogRecord) -> logging.LogRecord:
        if self._pattern is None:
            return record
        message = record.getMessage()
        if (redacted := self.text(message)) != message:
            record.msg, record.args = redacted, ()
        if record.exc_info:
            traceback = logging.Formatter().formatException(record.exc_info)
            if self.text(traceback) != traceback:
                record.exc_text, record.exc_info = self.text(traceback), None
        return record


class _Guarded:
    """A text stream that writes without secrets.

    Args:
        stream: Where it is written.
        redaction: Knows them.
    """

    def __init__(self, stream: TextIO, redaction: Redaction) -> None:
        self._stream = stream
        self._redaction = redaction

    def write(self, text: str) -> int:
        self._stream.write(self._redaction.text(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        self.write("".join(lines))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _told(error: BaseException) -> str:
    try:
        return f"{error} {error.args!r}"
    except Exception as broken:  # an error whose text can't be made holds nothing to be read
        return f"{type(broken).__name__}"


PROCESS = Redaction()
"""That of this process."""
