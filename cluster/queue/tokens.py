"""Who may ask the queue: whoever holds Ray's own token, or a team's."""

from __future__ import annotations

import hmac

from luthier.cluster.queue.teams import Policy
from luthier.cluster.token import ray_token
from luthier.errors import ConfigError


class Tokens:
    """What opens the queue, and which teams.

    Args:
        policy: The teams; one with a token of its own is opened by that alone.
        unauthenticated: Whether everybody may do everything.

    Raises:
        ConfigError: There is no token, and not everybody may.
    """

    def __init__(self, policy: Policy, *, unauthenticated: bool = False) -> None:
        self._open = unauthenticated
        own = {name: token for name, team in policy.teams.items() if (token := team.token()) is not None}
        shared = None if unauthenticated else ray_token()
        self._teams: dict[str, set[str]] = {}
        for name, token in own.items():
            self._teams.setdefault(token, set()).add(name)
        if shared is not None:
            self._teams.setdefault(shared, set()).update(policy.teams.keys() - own.keys())
        if not unauthenticated and not self._teams:
            raise ConfigError(
                "the queue has no token to ask for: there is no RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token. "
                "Make one with: ray get-auth-token --generate; or let everybody in with --allow-unauthenticated."
            )

    def admits(self, authorization: str) -> bool:
        """Whether a request may look."""
        return self._open or self._found(authorization) is not None

    def opens(self, authorization: str, team: str) -> bool:
        """Whether a request may act for a team."""
        return self._open or team in (self._found(authorization) or ())

    def _found(self, authorization: str) -> set[str] | None:
        """The teams of a token. Each is compared in constant time, and all are, found or not."""
        scheme, _, given = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return None
        found = None
        for token, teams in self._teams.items():
            if hmac.compare_digest(given.strip().encode(), token.encode()):
                found = teams
        return found
