"""Secrets that stand in a config as they are: refused, because a config is dumped, hashed, shipped and shown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from luthier.config.source import KeyPath, Source
from luthier.errors import ConfigError
from luthier.pii.secrets import made_as_secrets

_NAMES = re.compile(
    r"(?:^|_)(?:token|secret|password|passwd|pwd|credentials?|api_?key|access_?key(?:_id)?|account_?key|private_?key)$",
    re.IGNORECASE,
)
"""Keys whose text is one; luthier's own that sound alike (``max_tokens``, ``api_key_env``) end otherwise."""

_IN_QUERY = re.compile(r"[?&](?:[\w.-]*(?:token|secret|password|signature|key)|sig)=[^&\s]{8,}", re.IGNORECASE)

_REMEDY = (
    "take it out, and name the variable or file that holds it: secrets: {HF_TOKEN: {env: HF_TOKEN}}, "
    "or {file: /run/secrets/hf-token}"
)


def refuse_literal_secrets(source: Source) -> None:
    """Look through a config as it was written, before anything of it is shown.

    Raises:
        ConfigError: Every place where a secret stands. The message does not repeat it.
    """
    problems = [
        f"{source.place(path)}: {'.'.join(map(str, path))} {why}; {_REMEDY}." for path, why in _found(source.data, ())
    ]
    if problems:
        raise ConfigError("\n".join(problems))


def _found(node: Any, path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _found(value, (*path, str(key)))
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from _found(value, (*path, index))
    elif isinstance(node, str) and node and (why := _why(node, path)):
        yield path, why


def _why(value: str, path: KeyPath) -> str | None:
    if path[0] == "secrets" and len(path) == 2:
        return "is given as it is"
    if path[0] != "secrets" and _NAMES.search(str(path[-1])):
        return "is a secret by its name"
    if next(made_as_secrets(value), None) is not None or _IN_QUERY.search(value):
        return "holds a key, token or password"
    return None
