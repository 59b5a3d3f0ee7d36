"""The names that a request may use, and what each leads to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from luthier.serving.replies import Failure

_LONGEST_REPEATED = 100


class Refused(Exception):
    """A request that is answered with a :class:`Failure`."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)
        self.failure = failure


@dataclass(frozen=True)
class Names:
    """Who answers to what.

    Attributes:
        canonical: Every name that a request may use, to the one that its engine knows.
        engine_of: Canonical name to the engine that serves it.
        max_model_len: Longest prompt plus answer in tokens.
        created_s: When the endpoint was started, in seconds since 1970.
    """

    canonical: Mapping[str, str]
    engine_of: Mapping[str, str]
    max_model_len: int
    created_s: int

    def resolve(self, asked: object) -> str:
        """The canonical name of what a request asked for.

        Raises:
            Refused: 400 where no name was given, 404 where nothing is served under it.
        """
        known = ", ".join(sorted(self.canonical))
        if not isinstance(asked, str):
            raise Refused(Failure(400, f"model: give one of {known}", param="model"))
        if asked not in self.canonical:
            message = f"the model {asked[:_LONGEST_REPEATED]!r} does not exist; models are {known}"
            raise Refused(Failure(404, message, param="model", code="model_not_found"))
        return self.canonical[asked]

    def card(self, name: str) -> dict[str, Any]:
        """What the API tells of a model; the place of its files stays private.

        Raises:
            Refused: As :meth:`resolve`.
        """
        return {
            "id": name,
            "object": "model",
            "created": self.created_s,
            "owned_by": "luthier",
            "root": self.resolve(name),
            "max_model_len": self.max_model_len,
        }

    def cards(self) -> dict[str, Any]:
        """Every name that can be asked for."""
        return {"object": "list", "data": [self.card(name) for name in sorted(self.canonical)]}
