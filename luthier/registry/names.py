"""Names, aliases and references such as ``sections@3``: what they may look like.

They become path components, so the patterns admit nothing that could leave the registry's root.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from luthier.errors import RegistryError

LATEST = "latest"
"""Reads as the newest version; never an alias of its own."""

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_ALIAS = re.compile(r"[a-z][a-z0-9-]{0,62}")
_VERSION = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True)
class Reference:
    """A parsed reference.

    Attributes:
        name: Model name.
        selector: A version number, an alias (or ``latest``), or None for the bare name.
    """

    name: str
    selector: int | str | None


def check_name(name: str) -> str:
    """The name itself.

    Raises:
        RegistryError: It is not a lower-case slug.
    """
    if not _NAME.fullmatch(name):
        raise RegistryError(
            f"model name {name!r} is not valid; use 1 to 63 of a-z, 0-9 and '-', starting with a letter or digit."
        )
    return name


def check_alias(alias: str) -> str:
    """The alias itself.

    Raises:
        RegistryError: It is not a lower-case slug that starts with a letter, or it is ``latest``.
    """
    if not _ALIAS.fullmatch(alias):
        raise RegistryError(f"alias {alias!r} is not valid; use 1 to 63 of a-z, 0-9 and '-', starting with a letter.")
    if alias == LATEST:
        raise RegistryError(
            f"alias {alias!r} is taken: it always means the newest version; choose another, e.g. 'champion'."
        )
    return alias


def parse_reference(ref: str) -> Reference:
    """Read ``name``, ``name@3`` or ``name@champion``.

    Raises:
        RegistryError: It is none of these.
    """
    name, at, selector = ref.partition("@")
    check_name(name)
    if not at:
        return Reference(name, None)
    version = parse_version(selector)
    if version is not None:
        return Reference(name, version)
    return Reference(name, selector if selector == LATEST else check_alias(selector))


def parse_version(text: str) -> int | None:
    """The version number that the text spells, or None."""
    return int(text) if _VERSION.fullmatch(text) else None
