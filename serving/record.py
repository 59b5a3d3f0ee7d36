"""What is known of one request when it has ended: who asked which model, and how it went. Never what was said."""

from __future__ import annotations

import json
import logging
import logging.handlers
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from luthier.serving.replies import Failure, Part

_USAGE = '"usage":{'


@dataclass
class Record:
    """One request, written on while it is answered.

    Attributes:
        request_id: Ray Serve's id of it, which the answer carries as ``x-request-id``.
        route: What was asked for.
        key: Name of the key.
        model: Canonical name of the model; empty where none was found.
        lineage_id: The training run that the model came from; empty for a base model.
        stream: Whether the answer was streamed.
        status: HTTP status; of a stream that failed on the way the status that it would have had.
        error: Code or type of what was told in the answer's place.
        prompt_tokens: As the engine counts.
        completion_tokens: As the engine counts.
        began_at: Seconds since 1970.
        first_s: Seconds until the answer, or its first piece, was there.
        total_s: Seconds until its end.
    """

    request_id: str
    route: str
    key: str
    model: str = ""
    lineage_id: str = ""
    stream: bool = False
    status: int = 0
    error: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    began_at: float = field(default_factory=time.time)
    first_s: float | None = None
    total_s: float = 0.0
    _began: float = field(default_factory=time.monotonic, repr=False)

    def saw(self, part: Part) -> None:
        """Note a part of the answer."""
        if isinstance(part, Failure):
            self.failed(part)
            return
        if self.first_s is None:
            self.first_s = time.monotonic() - self._began
            self.status = 200
        if isinstance(part, dict):
            self._count(part.get("usage"))
        elif is_usage(part):
            self._count(json.loads(part.removeprefix("data: "))["usage"])

    def failed(self, failure: Failure) -> None:
        """Note that it was refused, or failed."""
        self.status = failure.status
        self.error = failure.code or failure.type

    def left(self) -> None:
        """Note that the client did not wait for the end."""
        self.status, self.error = 499, "client_left"

    def ended(self) -> None:
        """Note the end."""
        self.total_s = time.monotonic() - self._began

    @property
    def failed_here(self) -> bool:
        """Whether it failed by no fault of the client's: 5xx, a timeout, an adapter that can't be loaded."""
        return self.status >= 500 or self.status in (408, 422)

    @property
    def token_s(self) -> float | None:
        """Seconds from one token of a stream to the next, on average; None: it had fewer than two."""
        if not self.stream or self.first_s is None or self.completion_tokens < 2:
            return None
        return (self.total_s - self.first_s) / (self.completion_tokens - 1)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for the request log."""
        seconds = {"first_s": self.first_s, "total_s": self.total_s}
        return {
            "at": datetime.fromtimestamp(self.began_at, UTC).isoformat(timespec="milliseconds"),
            "request_id": self.request_id,
            "key": self.key,
            "route": self.route,
            "model": self.model,
            "lineage_id": self.lineage_id,
            "stream": self.stream,
            "status": self.status,
            "error": self.error,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            **{name: None if value is None else round(value, 4) for name, value in seconds.items()},
        }

    def _count(self, usage: Any) -> None:
        if isinstance(usage, dict):
            self.prompt_tokens = usage.get("prompt_tokens") or 0
            self.completion_tokens = usage.get("completion_tokens") or 0


def is_usage(event: str) -> bool:
    """Whether an event of a stream is the one that counts its tokens: the only one without a choice."""
    return _USAGE in event and '"choices":[]' in event


Observe = Callable[[Record], None]
"""Is told of each request when it has ended."""


def request_log(path: str | None) -> Observe:
    """Writes one JSON object a line for each request.

    Args:
        path: File to append to; None: the ingress's own log, which Ray keeps.
    """
    logger = logging.getLogger("luthier.requests")
    logger.setLevel(logging.INFO)
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        handler = logging.handlers.WatchedFileHandler(path, encoding="utf-8")  # a file that is rotated is opened anew
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.handlers, logger.propagate = [handler], False
    return lambda record: logger.info("%s", json.dumps(record.as_dict()))
