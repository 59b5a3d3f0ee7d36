"""The names that a request may use, and what each leads to."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from luthier.serving.keys import ApiKey
from luthier.serving.replies import Failure, not_servable
from luthier.serving.spec import PATHS, ROUTES, Route, Task

_LONGEST_REPEATED = 100
_MOST_LISTED = 20
_DOES: dict[Task, str] = {"generate": "generates text", "embed": "embeds texts", "classify": "classifies texts"}
_DOES_NOT: dict[Route, str] = {
    "chat": "answers no messages",
    "completions": "completes no texts",
    "embeddings": "does not embed",
    "classify": "does not classify",
}


class Refused(Exception):
    """A request that is answered with a :class:`Failure`."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)
        self.failure = failure


@dataclass(frozen=True)
class Split:
    """A canary: a version that answers a share of a name's requests.

    Attributes:
        canary: Its canonical name.
        stable: The canonical name of the version that answers the others.
        weight: The share, between 0 and 1.
    """

    canary: str
    stable: str
    weight: float

    def choose(self, user: str) -> str:
        """The version for a user: always the same one, and chosen anew with each canary."""
        drawn = int.from_bytes(hashlib.sha256(f"{self.canary}\0{user}".encode()).digest()[:8])
        return self.canary if drawn < self.weight * 2**64 else self.stable


@dataclass(frozen=True)
class Ability:
    """What an engine does.

    Attributes:
        task: What kind of answers it gives.
        max_model_len: Longest prompt plus answer in tokens.
    """

    task: Task
    max_model_len: int


@dataclass(frozen=True)
class Names:
    """Who answers to what.

    Attributes:
        canonical: Every name that a request may use, to the one that its engine knows.
        engine_of: Canonical name to the engine that serves it.
        abilities: What each engine does.
        created_s: When the endpoint was started, in seconds since 1970.
        problems: Names that lead to nothing that can be served, with the reason.
        lineage: Canonical name to the id of the training run that made the model.
        splits: Names whose requests are shared with a canary.
    """

    canonical: Mapping[str, str]
    engine_of: Mapping[str, str]
    abilities: Mapping[str, Ability]
    created_s: int
    problems: Mapping[str, str] = field(default_factory=dict)
    lineage: Mapping[str, str] = field(default_factory=dict)
    splits: Mapping[str, Split] = field(default_factory=dict)

    def resolve(self, asked: object, key: ApiKey, user: str = "") -> str:
        """The canonical name of what a request asked for.

        Args:
            asked: The request's ``model``.
            key: Who asks.
            user: For whom, as the request says; decides which version answers where there is a canary. Empty: the key
                itself.

        Raises:
            Refused: 400 where no name was given, 403 where the key does not open the model, 404 where nothing is served
                under the name, 422 where what is there can't be.
        """
        name = self._checked(asked, key)
        split = self.splits.get(name)
        return split.choose(user or key.name) if split else self.canonical[name]

    def _checked(self, asked: object, key: ApiKey) -> str:
        """A name that is served and that the key opens."""
        if not isinstance(asked, str):
            raise Refused(Failure(400, f"model: give one of {self._told(key)}", param="model"))
        canonical = self.canonical.get(asked)
        if not key.admits(canonical or asked):
            message = f"the key {key.name!r} does not open the model {asked[:_LONGEST_REPEATED]!r}"
            raise Refused(Failure(403, message, "permission_error", "model", "model_not_allowed"))
        if canonical is None and asked in self.problems:
            raise Refused(not_servable(asked, self.problems[asked]))
        if canonical is None:
            message = f"the model {asked[:_LONGEST_REPEATED]!r} does not exist; models are {self._told(key)}"
            raise Refused(Failure(404, message, param="model", code="model_not_found"))
        return asked

    def require(self, model: str, route: Route) -> None:
        """Refuse a request that its model can't answer.

        Args:
            model: Canonical name of the model.
            route: What is asked for.

        Raises:
            Refused: 400, with what the model does and where.
        """
        task = self.task_of(model)
        if route not in ROUTES[task]:
            places = " or ".join(PATHS[one] for one in ROUTES[task])
            message = f"the model {model!r} {_DOES_NOT[route]}; it {_DOES[task]}: POST {places}"
            raise Refused(Failure(400, message, param="model", code="model_not_supported"))

    def task_of(self, model: str) -> Task:
        """What a model does, by its canonical name."""
        return self._ability(model).task

    def card(self, name: str, key: ApiKey) -> dict[str, Any]:
        """What the API tells of a model; the place of its files stays private.

        Raises:
            Refused: As :meth:`resolve`.
        """
        root = self.canonical[self._checked(name, key)]
        ability = self._ability(root)
        return {
            "id": name,
            "object": "model",
            "created": self.created_s,
            "owned_by": "luthier",
            "root": root,
            "max_model_len": ability.max_model_len,
            "tasks": [ability.task],
        }

    def cards(self, key: ApiKey) -> dict[str, Any]:
        """Every name that the key may ask for."""
        return {"object": "list", "data": [self.card(name, key) for name in self._opened(key)]}

    def _ability(self, model: str) -> Ability:
        return self.abilities[self.engine_of[model]]

    def _opened(self, key: ApiKey) -> list[str]:
        return sorted(name for name, canonical in self.canonical.items() if key.admits(canonical))

    def _told(self, key: ApiKey) -> str:
        names = self._opened(key)
        more = f" and {len(names) - _MOST_LISTED} more: GET /v1/models" if len(names) > _MOST_LISTED else ""
        return ", ".join(names[:_MOST_LISTED]) + more
