"""Errors as the OpenAI API tells them: one status, one sentence, and which field is at fault.

Nothing that a request held is repeated in a message, except the name of the model that it asked for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_FIELD = re.compile(r"^[a-z][a-z0-9_]*$")
# What vLLM and pydantic append to a message: the rejected value, and where to read about it.
_ECHO = re.compile(r" \(parameter=.*\)$|\s*\[type=.*|\n\s*For further information.*", re.DOTALL)


@dataclass(frozen=True)
class Failure:
    """Why a request got no answer.

    Attributes:
        status: HTTP status.
        message: One sentence.
        type: OpenAI's class of errors.
        param: The field at fault.
        code: OpenAI's name of the error.
        retry_after_s: When to come again; None: it won't help.
    """

    status: int
    message: str
    type: str = "invalid_request_error"
    param: str | None = None
    code: str | None = None
    retry_after_s: int | None = None

    def body(self) -> dict[str, Any]:
        """The JSON that the client gets."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """Headers that go with the status."""
        return {"retry-after": str(self.retry_after_s)} if self.retry_after_s else {}


Part = Failure | dict[str, Any] | str
"""What an engine sends: a failure, a whole answer, or a piece of a streamed one."""

INTERNAL = Failure(500, "The server failed to answer; its log tells why.", "server_error")
OVERLOADED = Failure(
    429, "The endpoint's queue is full; try again later.", "rate_limit_error", code="overloaded", retry_after_s=1
)
TIMED_OUT = Failure(
    408, "The answer took longer than serve.request_timeout_s.", "server_error", code="timeout", retry_after_s=1
)


def too_often(wait_s: int) -> Failure:
    """The key's rate is used up for now."""
    message = f"This key asks more often than it may; try again in {wait_s} s."
    return Failure(429, message, "rate_limit_error", code="rate_limit_exceeded", retry_after_s=wait_s)


def not_servable(ref: str, problem: str) -> Failure:
    """A model that is registered and can't be served."""
    return Failure(422, f"{ref} can't be served: {problem}.", param="model", code="model_not_servable")


def refused(status: int, message: str, param: str | None = None) -> Failure:
    """What the engine says of a request, without the values that it repeats; a fault of its own is told as such."""
    if status >= 500:
        return INTERNAL
    return Failure(status, _ECHO.sub("", message).strip(), param=param)


def invalid(problems: Sequence[Mapping[str, Any]]) -> Failure:
    """The first of pydantic's problems, as ``field: problem``."""
    # Names of classes and validators stand in the location too, where a field takes one of several types.
    where = [str(part) for part in problems[0]["loc"] if isinstance(part, int) or _FIELD.match(str(part))]
    field = ".".join(where)
    message = str(problems[0]["msg"])
    return Failure(400, f"{field}: {message}" if field else message, param=field or None)
