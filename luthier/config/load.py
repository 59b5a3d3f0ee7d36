"""From YAML and overrides to a checked, frozen :class:`RunConfig`, and back."""

from __future__ import annotations

import copy
import difflib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from luthier.config.literal_secrets import refuse_literal_secrets
from luthier.config.run import RunConfig
from luthier.config.source import KeyPath, Source, read_source
from luthier.errors import ConfigError

Checked = TypeVar("Checked", bound=BaseModel)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read, override and check a configuration.

    Args:
        path: YAML file.
        overrides: ``dotted.key=value`` assignments, applied in order.

    Raises:
        ConfigError: Every problem found, each with its key, value, place and remedy.
    """
    source = read_source(Path(path))
    for assignment in overrides:
        source.override(assignment)
    return validate(source, RunConfig)


def apply_overrides(cfg: RunConfig, overrides: Mapping[str, Any]) -> RunConfig:
    """A checked copy of ``cfg`` with some dotted paths set to other values.

    Raises:
        ConfigError: A path does not exist or a value breaks a rule.
    """
    source = Source("overrides", copy.deepcopy(cfg.model_dump(mode="json")))
    for dotted, value in overrides.items():
        source.set(dotted, value, f"override {dotted}={value!r}")
    return validate(source, RunConfig)


def config_hash(cfg: RunConfig) -> str:
    """SHA-256 of the resolved configuration, in hex."""
    canonical = json.dumps(cfg.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def dump_yaml(cfg: RunConfig) -> str:
    """The resolved configuration as YAML that loads to an equal one."""
    return yaml.safe_dump(cfg.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def json_schema() -> dict[str, Any]:
    """JSON schema of the configuration, for editors."""
    return RunConfig.model_json_schema()


def validate(source: Source, model: type[Checked]) -> Checked:
    """A config class's instance of what was read.

    Args:
        source: What was read.
        model: The class.

    Raises:
        ConfigError: Every problem found, each with its key, value, place and remedy.
    """
    refuse_literal_secrets(source)
    try:
        return model.model_validate(source.data)
    except ValidationError as error:
        details = [dict(detail) for detail in error.errors()]
        telling = [detail for detail in details if detail["type"] != "too_short"] or details
        raise ConfigError(
            "\n".join(_describe(detail, source, model) for detail in _one_per_key(telling, source))
        ) from error


def _one_per_key(details: Sequence[dict[str, Any]], source: Source) -> list[dict[str, Any]]:
    """Pydantic tells of each member of a union that a value is not; together they are one problem."""
    merged: dict[tuple[Any, ...], dict[str, Any]] = {}
    for detail in details:
        place = (*_real_path(detail["loc"], source.data, absent_key=detail["type"] == "missing"),)
        if place in merged and detail["type"] not in ("missing", "extra_forbidden", "value_error"):
            merged[place] = {**merged[place], "msg": f"{merged[place]['msg']}, or {detail['msg']}"}
        else:
            merged[(*place, len(merged)) if place in merged else place] = detail
    return list(merged.values())


def _describe(detail: Mapping[str, Any], source: Source, model: type[BaseModel]) -> str:
    """One pydantic error as one line: place, key, value, rule, remedy."""
    path = tuple(_real_path(detail["loc"], source.data, absent_key=detail["type"] == "missing"))
    dotted = ".".join(map(str, path)) or "the configuration"
    where = source.origin(path)
    if detail["type"] == "extra_forbidden":
        known = _keys_at(model, detail["loc"][:-1])
        near = difflib.get_close_matches(str(path[-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"valid keys are {', '.join(known)}."
        return f"{where}: unknown key {dotted!r}; {hint}"
    if detail["type"] == "missing":
        return f"{where}: {dotted!r} is missing; add it."
    message = str(detail["msg"]).removeprefix("Value error, ")
    if detail["type"] == "value_error" and isinstance(detail["input"], dict | BaseModel):
        return f"{where}: {dotted}: {message}."
    return f"{where}: {dotted} is {detail['input']!r}: {message}."


def _real_path(loc: Sequence[str | int], data: Any, *, absent_key: bool) -> Iterator[str | int]:
    """Pydantic's location without the union tags that it inserts.

    Args:
        loc: The location.
        data: What was validated.
        absent_key: Whether the location's last part is a key that ``data`` lacks, rather than a tag.
    """
    node = data
    for position, part in enumerate(loc):
        last = position == len(loc) - 1
        inside_list = isinstance(node, list | tuple) and isinstance(part, int) and part < len(node)
        if inside_list or (isinstance(node, dict) and part in node):
            node = node[part]  # type: ignore[index]  # either kind takes this part
        elif not (last and absent_key):
            continue
        yield part


def _keys_at(model: type[BaseModel], loc: KeyPath) -> list[str]:
    """Names of the fields that the class at a location below another class has."""
    candidates: list[type[BaseModel]] = []
    for part in loc:
        if isinstance(part, str) and part in model.model_fields:
            models = list(_models_in(model.model_fields[part].annotation))
            if models:
                model = models[0]
                candidates = models
        elif isinstance(part, str):
            tagged = [
                m for m in candidates if part in get_args(getattr(m.model_fields.get("type"), "annotation", None))
            ]
            model = tagged[0] if tagged else model
    return list(model.model_fields)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Config classes that an annotation mentions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)
