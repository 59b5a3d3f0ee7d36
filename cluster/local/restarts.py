"""How often a head may be started again before its keeper gives up."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

MAX_RESTARTS = 5
WINDOW_S = 600.0


@dataclass
class Restarts:
    """So many within so long: what fails again and again does so for a reason that a restart does not mend.

    Attributes:
        limit: The most within the window.
        window_s: How long a restart counts.
    """

    limit: int = MAX_RESTARTS
    window_s: float = WINDOW_S
    _at_s: deque[float] = field(default_factory=deque)

    def allowed(self, now_s: float) -> bool:
        """Count one more, unless that is too many.

        Args:
            now_s: Of a clock that never goes back.
        """
        while self._at_s and now_s - self._at_s[0] > self.window_s:
            self._at_s.popleft()
        if len(self._at_s) >= self.limit:
            return False
        self._at_s.append(now_s)
        return True
