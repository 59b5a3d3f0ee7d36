"""Aliases as an append-only log: who moved which alias, when, why, on which figures, from where to where.

One record is one object, ``aliases/00000007.json``, and carries the whole alias table after the move. Only
one writer that has read record 7 can make record 8: that is the compare-and-swap, and it needs no lock. Table
and history can't disagree, because they are the same objects.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from luthier.errors import IntegrityError, RegistryError
from luthier.registry.store import Store

_MAX_TRIES = 200
_MAX_PAUSE_S = 0.05


Action = Literal["set", "rollback", "canary", "canary-end"]


class Canary(BaseModel):
    """A version that answers a share of an alias's requests, to be watched before it is promoted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Annotated[int, Field(ge=1)]
    weight: Annotated[float, Field(gt=0.0, lt=1.0)]


class AliasChange(BaseModel):
    """One record of the history."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    schema_version: Literal[1] = 1
    sequence: Annotated[int, Field(ge=1)]
    """Position in the model's history, without gaps."""

    alias: str
    action: Action
    previous: int | None
    """Version before the move; None: the alias is new."""

    version: int
    """Version after the move; of a canary's beginning or end, the canary's."""

    actor: str
    reason: str
    figures: dict[str, JsonValue]
    """What the decision was made on, for instance the gate's metrics."""

    at: str
    """ISO 8601, UTC."""

    aliases: dict[str, int]
    """Every alias of the model after the move."""

    canaries: dict[str, Canary] = {}
    """Every canary of the model after the move, by alias. Moving the alias ends its canary."""

    forced: bool = False
    """Whether the gate was passed over."""


class Move(BaseModel):
    """A wish to move an alias, before it is known against which state."""

    model_config = ConfigDict(frozen=True)

    alias: str
    action: Action
    version: int
    actor: str
    reason: str
    figures: dict[str, JsonValue]
    forced: bool = False
    weight: float | None = None
    """Of a canary that begins."""


class AliasLog:
    """The history of one model's aliases.

    Args:
        store: The registry's store.
        name: A checked model name.
    """

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self._directory = f"{name}/aliases"

    def last(self) -> AliasChange | None:
        """The newest record, which tells how things stand; None: nothing was ever moved."""
        last = self._sequences()[-1:]
        return self._read(last[0]) if last else None

    def aliases(self) -> dict[str, int]:
        """The table now: alias to version."""
        last = self.last()
        return last.aliases if last else {}

    def records(self) -> list[AliasChange]:
        """Every move, oldest first.

        Raises:
            IntegrityError: A record is missing or unreadable.
        """
        found = self._sequences()
        if found != list(range(1, len(found) + 1)):
            missing = min(set(range(1, found[-1] + 1)) - set(found))
            raise IntegrityError(f"{self._address(missing)}: missing from the history; restore it from a copy.")
        return [self._read(sequence) for sequence in found]

    def append(self, decide: Callable[[AliasChange | None], Move]) -> AliasChange:
        """Move an alias.

        Args:
            decide: Given the newest record, says what to do, or raises. Called again when another writer was
                faster.

        Raises:
            RegistryError: Others kept being faster, 200 times.
        """
        for attempt in range(_MAX_TRIES):
            last = self.last()
            change = _apply(decide(last), last)
            try:
                data = change.model_dump_json(indent=1) + "\n"
                self._store.create(self._key(change.sequence), data.encode("utf-8"))
            except FileExistsError:
                # Random pauses, or writers that collided once would go on in step.
                time.sleep(random.uniform(0.0, min(_MAX_PAUSE_S, 0.002 * (attempt + 1))))
                continue
            return change
        raise RegistryError(
            f"{self._store.address(self._directory)}: {_MAX_TRIES} other writers were faster; try again."
        )

    def _sequences(self) -> list[int]:
        stems = (name.removesuffix(".json") for name in self._store.children(self._directory) if name.endswith(".json"))
        return sorted(int(stem) for stem in stems if stem.isascii() and stem.isdigit())

    def _read(self, sequence: int) -> AliasChange:
        try:
            return AliasChange.model_validate_json(self._store.read(self._key(sequence)))
        except ValidationError as error:
            raise IntegrityError(
                f"{self._address(sequence)}: not an alias record ({error.errors()[0]['msg']}); restore it from a copy."
            ) from error

    def _key(self, sequence: int) -> str:
        return f"{self._directory}/{sequence:08d}.json"

    def _address(self, sequence: int) -> str:
        return self._store.address(self._key(sequence))


def stack_of(records: list[AliasChange], alias: str) -> list[int]:
    """Versions that the alias stood at, the present one last: a set pushes, a rollback pops."""
    stack: list[int] = []
    for record in records:
        if record.alias != alias:
            continue
        if record.action == "rollback":
            stack.pop()
        elif record.action == "set" and stack[-1:] != [record.version]:
            stack.append(record.version)
    return stack


def _apply(move: Move, last: AliasChange | None) -> AliasChange:
    aliases = dict(last.aliases) if last else {}
    previous = aliases.get(move.alias)
    canaries = {alias: canary for alias, canary in (last.canaries if last else {}).items() if alias != move.alias}
    if move.weight is not None:
        canaries[move.alias] = Canary(version=move.version, weight=move.weight)
    if move.action in ("set", "rollback"):
        aliases[move.alias] = move.version
    return AliasChange(
        sequence=(last.sequence if last else 0) + 1,
        previous=previous,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        aliases=aliases,
        canaries=canaries,
        **move.model_dump(exclude={"weight"}),
    )
