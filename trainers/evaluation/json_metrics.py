"""Whether an answer is JSON, and as a schema wants it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from luthier.errors import ConfigError
from luthier.trainers.evaluation.measured import ExtraMetric
from luthier.trainers.evaluation.metrics import FloatArray
from luthier.trainers.evaluation.predictions import Prediction

MAX_SCHEMA_BYTES = 1 << 20
_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")


def json_metrics(schema: str | None, references: Sequence[str]) -> tuple[ExtraMetric, ...]:
    """Metrics of answers that must be JSON; none where nothing says that they must.

    Args:
        schema: ``evaluate.json_schema``; None: there is no schema, and whether answers are JSON is measured where all the
            references are JSON objects or lists.
        references: Of all rows.

    Raises:
        ConfigError: As :func:`load_schema`.
    """
    if schema is None:
        structured = bool(references) and all(isinstance(_parsed(one), dict | list) for one in references)
        return (ExtraMetric("json_valid", partial(_share, _is_json)),) if structured else ()
    fits = load_schema(schema)
    return (
        ExtraMetric("json_valid", partial(_share, _is_json)),
        ExtraMetric("json_schema_valid", partial(_share, fits)),
    )


def load_schema(path: str) -> Callable[[str], bool]:
    """A check whether a text is JSON as a schema wants it. Nothing is fetched.

    Raises:
        ConfigError: The file can't be read, is too large, is no JSON schema, or refers to another document.
    """
    from jsonschema import SchemaError
    from jsonschema.validators import validator_for

    place = Path(path).expanduser()
    try:
        size = place.stat().st_size
        if size > MAX_SCHEMA_BYTES:
            raise ConfigError(f"evaluate.json_schema: {path} has {size} bytes; at most {MAX_SCHEMA_BYTES} are read.")
        schema = json.loads(place.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"evaluate.json_schema: {path} can't be read ({error.strerror}); correct the path."
        ) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"evaluate.json_schema: {path} is not JSON ({error}); correct the file.") from error
    for target in _targets(schema):
        if not str(target).startswith("#"):
            raise ConfigError(
                f"evaluate.json_schema: {path} refers to {target!r}; only references within the file (#/$defs/...) are "
                "followed: copy the definition into it."
            )
    kind = validator_for(schema)
    try:
        kind.check_schema(schema)
    except SchemaError as error:
        raise ConfigError(f"evaluate.json_schema: {path}: {error.json_path}: {error.message}.") from error
    validator = kind(schema)
    return partial(_fits, validator, path)


def _targets(node: Any) -> Iterator[Any]:
    """What the schema refers to."""
    if isinstance(node, dict):
        yield from (node[key] for key in _REFERENCES if key in node and not isinstance(node[key], dict))
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from _targets(child)


def _fits(validator: Any, path: str, text: str) -> bool:
    from referencing.exceptions import Unresolvable

    value = _parsed(text)
    try:
        return value is not _NO_JSON and bool(validator.is_valid(value))
    except (Unresolvable, RecursionError) as error:
        raise ConfigError(
            f"evaluate.json_schema: {path} has a reference that leads nowhere ({type(error).__name__}); correct it."
        ) from error


_NO_JSON = object()


def _is_json(text: str) -> bool:
    return _parsed(text) is not _NO_JSON


def _parsed(text: str) -> Any:
    """The value of a whole text, or :data:`_NO_JSON`. Python's own ``NaN`` and ``Infinity`` are no JSON."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return _NO_JSON


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def _share(holds: Callable[[str], bool], rows: Sequence[Prediction]) -> FloatArray:
    return np.array([float(holds(row.answer)) for row in rows])
