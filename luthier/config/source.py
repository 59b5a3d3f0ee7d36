"""YAML read with the line of every key, so that an error can point at it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from luthier.errors import ConfigError

KeyPath = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """SafeLoader that also reads ``1e-4`` as a number, as YAML 1.2 and everybody's intuition do."""


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
        except yaml.YAMLError as error:
            raise ConfigError(f"override {assignment!r}: the value is not valid YAML ({_problem(error)}).") from error
        self.set(dotted.strip(), value, f"override {assignment!r}")

    def set(self, dotted: str, value: Any, origin: str) -> None:
        """Set one dotted path to a value, making the mappings on the way."""
        path: KeyPath = tuple(int(part) if part.isdigit() else part for part in dotted.split("."))
        node: Any = self.data
        for position, part in enumerate(path):
            last = position == len(path) - 1
            if isinstance(node, list) and isinstance(part, int) and part < len(node):
                if last:
                    node[part] = value
            elif isinstance(node, dict):
                # A search space's keys are dotted paths themselves, so one key may hold the rest of the path.
                rest = ".".join(map(str, path[position:]))
                if rest in node:
                    node[rest] = value
                    break
                if last:
                    node[str(part)] = value
                elif node.get(str(part)) is None:
                    node[str(part)] = {}
            else:
                raise ConfigError(
                    f"{origin}: {'.'.join(map(str, path[: position + 1]))} does not exist in {self.name}."
                )
            if not last:
                node = node[part if isinstance(node, list) else str(part)]
        self.origins[path] = origin


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
    try:
        node = yaml.compose(text, Loader=_Loader)
        data = parse_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {_problem(error)}.") from error
    if not isinstance(data, dict) or not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{path}:1: the file holds {type(data).__name__}; it must be a mapping of config keys.")
    source = Source(str(path), data)
    _record(node, (), source)
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


def _problem(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark else str(problem)
