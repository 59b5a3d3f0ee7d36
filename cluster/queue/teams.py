"""What the teams of a cluster may use, and in which order they come."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from luthier.config.base import Config
from luthier.config.load import validate
from luthier.config.source import read_source
from luthier.errors import ConfigError

PRIORITIES = {"low": -50, "normal": 0, "high": 50, "urgent": 100}
LOWEST, HIGHEST = -100, 100

Period = Literal["hour", "day", "week", "month"]
PERIOD_S: dict[Period, float] = {"hour": 3600.0, "day": 86400.0, "week": 7 * 86400.0, "month": 30 * 86400.0}


def read_priority(value: Any) -> Any:
    """A priority's number, where one of the names stands; a number, or a text that is one, as the number.

    Raises:
        ValueError: It is neither.
    """
    if isinstance(value, str):
        if value in PRIORITIES:
            return PRIORITIES[value]
        try:
            return int(value)
        except ValueError as error:
            near = difflib.get_close_matches(value, PRIORITIES, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"names are {', '.join(PRIORITIES)}"
            raise ValueError(f"it is neither a name nor a whole number from {LOWEST} to {HIGHEST}; {hint}") from error
    return value


Priority = Annotated[int, Field(ge=LOWEST, le=HIGHEST), BeforeValidator(read_priority)]
Resources = dict[str, Annotated[float, Field(ge=0)]]


class Team(Config):
    """One team's share."""

    accelerator_hours: Annotated[float, Field(ge=0)] | None = None
    """Hours of GPUs in each period; None: no limit."""

    cpu_hours: Annotated[float, Field(ge=0)] | None = None
    """Hours of CPUs in each period, of jobs that ask for no GPU; None: no limit."""

    per: Period = "week"
    """The period, which rolls: it always ends now. A month has 30 days."""

    weight: Annotated[float, Field(gt=0)] = 1.0
    """The team's share of a contended cluster, relative to the others'."""

    max_priority: Priority = HIGHEST
    """Highest priority that its jobs may have: low, normal, high, urgent, or -100 to 100."""

    token_env: str | None = None
    """Environment variable of the service with the team's own token; with one, Ray's token does not open the team."""

    token_file: str | None = None
    """File with the team's own token, instead of ``token_env``."""

    @model_validator(mode="after")
    def _one_token(self) -> Team:
        if self.token_env and self.token_file:
            raise ValueError("token_env and token_file are both set; keep one")
        return self

    @property
    def period_s(self) -> float:
        """Length of the period."""
        return PERIOD_S[self.per]

    def token(self) -> str | None:
        """The team's own token; None: it has none.

        Raises:
            ConfigError: It is named and not there.
        """
        if self.token_env:
            if not (found := os.environ.get(self.token_env, "").strip()):
                raise ConfigError(f"token_env: the environment variable {self.token_env!r} is not set; set the token.")
            return found
        if self.token_file:
            try:
                found = Path(self.token_file).expanduser().read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(
                    f"token_file: {self.token_file!r} can't be read; name a file with a token."
                ) from error
            if not found:
                raise ConfigError(f"token_file: {self.token_file!r} is empty; write the team's token into it.")
            return found
        return None


class NodeKind(Config):
    """Nodes that an autoscaler may add."""

    resources: Resources
    """What one such node has, in Ray's names: CPU, GPU, memory."""

    count: Annotated[int, Field(ge=1)]
    """How many there may be at once, those that run included."""


class Policy(Config):
    """Who shares the cluster, and how."""

    teams: Annotated[dict[str, Team], Field(min_length=1)] = {"default": Team()}
    """Each team by its name."""

    default_team: str | None = None
    """Team of a job that names none; None: the only team, or else a job must name one."""

    fair_days: Annotated[float, Field(gt=0)] = 7.0
    """How many days back a team's use counts in the fair order."""

    starvation_s: Annotated[float, Field(ge=0)] = 3600.0
    """How long smaller jobs may overtake one that waits for room; after that nothing that needs the same kinds of
    resources starts before it."""

    grows_by: tuple[NodeKind, ...] = ()
    """Nodes that the cluster's autoscaler may add: jobs may ask for them too."""

    keep_free: Resources = {}
    """What queued jobs leave alone, for endpoints and others that do not queue."""

    @field_validator("teams")
    @classmethod
    def _names(cls, teams: dict[str, Team]) -> dict[str, Team]:
        for name in teams:
            if not name.isascii() or not name.replace("-", "").replace("_", "").isalnum() or len(name) > 63:
                raise ValueError(f"{name!r} is no name of a team: letters, digits, '-' and '_', 63 at most")
        return teams

    @model_validator(mode="after")
    def _default_is_a_team(self) -> Policy:
        if self.default_team is not None and self.default_team not in self.teams:
            raise ValueError(f"default_team: {unknown('team', self.default_team, self.teams)}")
        return self

    def team_name(self, asked: str | None) -> str:
        """The team that a job belongs to.

        Raises:
            ConfigError: There is no such team, or none is named and there are several.
        """
        name = asked or self.default_team or (next(iter(self.teams)) if len(self.teams) == 1 else None)
        if name is None:
            raise ConfigError(f"--team is missing; this queue's teams are {', '.join(sorted(self.teams))}.")
        if name not in self.teams:
            raise ConfigError(f"--team: {unknown('team', name, self.teams)}.")
        return name

    def checked_priority(self, team: str, asked: Any) -> int:
        """A priority that the team may use; none named is normal, or the team's highest where that is lower.

        Raises:
            ConfigError: It is no priority, or above the team's highest.
        """
        highest = self.teams[team].max_priority
        if asked is None:
            return min(PRIORITIES["normal"], highest)
        try:
            priority = int(read_priority(asked))
        except ValueError as error:
            raise ConfigError(f"--priority is {asked!r}: {error}.") from error
        if not LOWEST <= priority <= HIGHEST:
            raise ConfigError(f"--priority is {priority}; it must be from {LOWEST} to {HIGHEST}.")
        if priority > highest:
            raise ConfigError(f"--priority is {priority}; team {team} may use {highest} at most; lower it.")
        return priority


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """That a name is not known, with the nearest that is."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}"
    return f"unknown {kind} {name!r}; {hint}"


def load_policy(path: Path | None) -> Policy:
    """Read the file of teams; without one, there is a single team that may use everything.

    Raises:
        ConfigError: Every problem found, each with its key, value, place and remedy.
    """
    return Policy() if path is None else validate(read_source(path), Policy)
