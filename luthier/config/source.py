"""YAML read with the line of every key, so that an error can point at it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from luthier.errors import ConfigError

KeyPath = tuple[str | int, ...]

_DOTTED_KEYS: tuple[KeyPath, ...] = (("tune", "search_space"), ("tune", "overrides"))
_SYNONYMS = ({"model_name_or_path", "base_model"},)
"""Names of one setting; setting one takes the place of the other."""


class _Loader(yaml.SafeLoader):
    """SafeLoader that also reads ``1e-4`` as a number, as YAML 1.2 and everybody's intuition do."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """The node's value; one that its type can't hold, such as the date 2024-13-45, is an error with its line."""
        try:
            return super().construct_object(node, deep)  # type: ignore[no-untyped-call]
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            kind = node.tag.rpartition(":")[2]
            text = f"{node.value!r} is not a valid {kind}; put it in quotes if text is meant"
            raise yaml.constructor.ConstructorError(None, None, text, node.start_mark) from error


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


@dataclass
class Source:
    """Plain data with where each key came from.

    Attributes:
        name: File name for messages.
        data: The parsed mapping.
        origins: Key path to ``file:line`` or ``override 'key=value'``.
    """

    name: str
    data: dict[str, Any]
    origins: dict[KeyPath, str] = field(default_factory=dict)

    def origin(self, path: KeyPath) -> str:
        """Where the key at ``path``, or else its nearest parent, was written."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.origins:
                return self.origins[path[:length]]
        return self.name

    def place(self, path: KeyPath) -> str:
        """The same without an override's value, which may be a secret."""
        return self.origin(path).partition("=")[0].replace("override '", "override ")

    def override(self, assignment: str) -> None:
        """Apply one ``dotted.path=value``; the value is read as YAML.

        Raises:
            ConfigError: There is no ``=``, a list index is out of range, or the path runs through a plain value.
        """
        dotted, separator, text = assignment.partition("=")
        if not separator or not dotted.strip():
            raise ConfigError(
                f"override {assignment!r} is not of the form key=value, such as train.learning_rate=1e-4."
            )
        try:
            value = parse_yaml(text)
        except (yaml.YAMLError, RecursionError) as error:
            raise ConfigError(f"override {assignment!r}: the value is not valid YAML ({_problem(error)}).") from error
        self.set(dotted.strip(), value, f"override {assignment!r}")

    def set(self, dotted: str, value: Any, origin: str) -> None:
        """Set one dotted path to a value, making the mappings on the way."""
        parts = dotted.split(".")
        node: Any = self.data
        path: KeyPath = ()
        while parts:
            key, parts = self._next_key(node, path, parts, origin)
            path = (*path, key)
            if not parts:
                _forget_synonyms(node, key)
                node[key] = value
            elif isinstance(node, dict) and node.get(key) is None:
                node[key] = {}
            node = node[key]
        self.origins[path] = origin

    def _next_key(self, node: Any, path: KeyPath, parts: list[str], origin: str) -> tuple[str | int, list[str]]:
        """The key of ``node`` that the front of a dotted path means, and the rest of the path.

        The keys of a search space and of a sweep's overrides are dotted paths themselves, so one key may stand for
        several parts: the longest that is there, else all of them where such keys belong.
        """
        if isinstance(node, dict):
            for length in range(len(parts), 1, -1):
                if (key := ".".join(parts[:length])) in node:
                    return key, parts[length:]
            whole = path in _DOTTED_KEYS and parts[0] not in node
            return (".".join(parts), []) if whole else (parts[0], parts[1:])
        if isinstance(node, list) and parts[0].isascii() and parts[0].isdigit() and int(parts[0]) < len(node):
            return int(parts[0]), parts[1:]
        raise ConfigError(f"{origin}: {'.'.join(map(str, (*path, parts[0])))} does not exist in {self.name}.")


def parse_yaml(text: str) -> Any:
    """Parse one YAML document."""
    return yaml.load(text, Loader=_Loader)


def read_source(path: Path) -> Source:
    """Read a YAML file.

    Raises:
        ConfigError: The file is missing, not UTF-8, not YAML, repeats a key, or is not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError) as error:
        raise ConfigError(f"config file {str(path)!r} does not exist; give the path of a YAML file.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config file {str(path)!r} can't be read: {error}.") from error
    source = Source(str(path), {})
    try:
        node = yaml.compose(text, Loader=_Loader)
        data = parse_yaml(text)
        if node is not None:
            _record(node, (), source)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {_problem(error)}.") from error
    except RecursionError as error:
        raise ConfigError(
            f"{path}: an anchor holds itself, or the nesting has no end; write the values out."
        ) from error
    if not isinstance(data, dict) or not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{path}:1: the file holds {type(data).__name__}; it must be a mapping of config keys.")
    source.data = data
    return source


def _record(node: yaml.Node, path: KeyPath, source: Source) -> None:
    """Note the line of every key below ``node``."""
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            name = str(key.value)
            if name in seen:
                raise ConfigError(f"{source.name}:{line}: key {name!r} stands at line {seen[name]} already; keep one.")
            seen[name] = line
            source.origins[(*path, name)] = f"{source.name}:{line}"
            _record(value, (*path, name), source)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            source.origins[(*path, index)] = f"{source.name}:{item.start_mark.line + 1}"
            _record(item, (*path, index), source)


def _forget_synonyms(node: Any, key: str | int) -> None:
    for names in _SYNONYMS:
        if isinstance(node, dict) and key in names:
            for other in names - {key}:
                node.pop(other, None)


def _problem(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark else str(problem)
