"""Which adapters an engine holds, and how loading them went."""

from __future__ import annotations

from collections.abc import Callable


class HeldAdapters:
    """Follows an engine's adapters: it holds those that were used last.

    Args:
        most: Adapters that it holds.
        count: Told of each load: the adapter, and whether the engine took it.
    """

    def __init__(self, most: int, count: Callable[[str, bool], None]) -> None:
        self._most = most
        self._count = count
        self._loads: dict[str, int] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters, the one used longest ago first."""
        return tuple(self._loads)

    def refused(self, name: str) -> None:
        """An adapter that can't be loaded was asked for."""
        self._count(name, False)

    def used(self, name: str, load: int) -> None:
        """A request uses an adapter.

        Args:
            name: The adapter.
            load: Number of the load that brought it: with a new one the engine has loaded it anew.
        """
        if self._loads.pop(name, None) != load:
            self._count(name, True)
        self._loads[name] = load
        for oldest in list(self._loads)[: -self._most]:
            del self._loads[oldest]
