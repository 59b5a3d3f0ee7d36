"""A language model that is asked which of two answers is better."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from luthier.config.base import Config

RUBRIC = """\
Judge which answer serves the person who asked better. What counts, in this order: that it is correct, that it does what
was asked, that nothing needed is missing, that nothing is there which was not asked for. Length is no merit."""


class LlmJudgeConfig(Config):
    """Pairs of answers, the tuned model's and the base model's, put before another model.

    Questions, answers and references are sent to ``base_url``. Each pair is asked in both orders; where the two replies
    disagree, it counts as a tie.
    """

    base_url: str
    """An OpenAI-compatible endpoint, such as ``http://127.0.0.1:9000/v1``. With ``offline: true``, one of this machine."""

    model: str = Field(min_length=1)
    """The model to ask, by the endpoint's name of it."""

    api_key_env: str | None = Field(default=None, pattern=r"^[A-Z_][A-Z0-9_]*$")
    """Environment variable that holds the endpoint's key; None: it asks for none."""

    rubric: str = Field(default=RUBRIC, min_length=1)
    """What makes an answer the better one."""

    pairwise: Literal[True] = True
    """Two answers are compared; there is no other way."""

    show_reference: bool = True
    """Whether the judge sees the row's own answer."""

    max_rows: Annotated[int, Field(ge=2)] = 100
    """Rows to compare, drawn by the seed; each takes two requests, but for equal answers, which are a tie."""

    max_tokens: Annotated[int, Field(ge=1)] = 8
    """Longest reply. Only ``A``, ``B`` or ``tie``, and nothing else, is a verdict."""

    concurrency: Annotated[int, Field(ge=1, le=64)] = 8
    """Requests at a time."""

    timeout_s: Annotated[float, Field(gt=0.0)] = 60.0
    """Longest wait for one reply."""

    max_retries: Annotated[int, Field(ge=0, le=10)] = 3
    """Tries after the first, where the endpoint is busy, fails or is silent."""

    max_seconds: Annotated[float, Field(gt=0.0)] = 1800.0
    """Longest time for all requests; what is open then counts as failed."""

    @field_validator("base_url")
    @classmethod
    def _is_address(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("it must be an http or https address")
        if parts.username or parts.password or parts.query:
            raise ValueError("it must hold no user, password or query; name the key's variable in api_key_env")
        return value

    @property
    def is_local(self) -> bool:
        """Whether nothing that is sent leaves this machine."""
        host = urlsplit(self.base_url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"
