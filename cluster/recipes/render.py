"""Recipes as text: one template for each kind of cluster, filled from one description."""

from __future__ import annotations

import difflib
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from luthier.cluster.environment import ALWAYS
from luthier.cluster.recipes.spec import Recipe
from luthier.config.source import Source
from luthier.errors import ConfigError

FILES = {
    "aws": "aws.yaml",
    "gcp": "gcp.yaml",
    "onprem": "onprem.yaml",
    "rayjob": "rayjob.yaml",
    "rayservice": "rayservice.yaml",
    "slurm": "slurm.sh",
    "container": "Containerfile",
}
"""Name of each recipe to the file that it is written to."""

CONTAINER_USER = 1000
CONTAINER_HOME = "/home/luthier"
_GIB_OF_A_NODE_FOR_OTHERS = 16  # what the node's own services and Ray's processes take beside the pod


def make_recipe(assignments: Sequence[str] = ()) -> Recipe:
    """The description, with some of its dotted keys set.

    Args:
        assignments: ``dotted.key=value``, the value read as YAML.

    Raises:
        ConfigError: A key does not exist or a value breaks a rule.
    """
    source = Source("the recipe", {})
    for assignment in assignments:
        source.override(assignment)
    try:
        return Recipe.model_validate(source.data)
    except ValidationError as error:
        raise ConfigError("\n".join(_problem(dict(detail), source) for detail in error.errors())) from error


def render(recipe: Recipe, name: str) -> str:
    """The text of one recipe.

    Args:
        recipe: The cluster.
        name: Which, of :data:`FILES`.

    Raises:
        ConfigError: There is no such recipe.
    """
    if name not in FILES:
        near = difflib.get_close_matches(name, FILES, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else "choose one of these, or all."
        raise ConfigError(f"NAME is {name!r}; the recipes are {', '.join(FILES)}: {hint}")
    from jinja2 import Environment, PackageLoader, StrictUndefined

    templates = Environment(
        loader=PackageLoader("luthier.cluster.recipes", "."),
        undefined=StrictUndefined,
        comment_start_string="<#",  # {# is part of a shell's ${#array[@]}
        comment_end_string="#>",
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    return str(templates.get_template(f"{FILES[name]}.jinja").render(_given(recipe)))


def write(recipe: Recipe, names: Sequence[str], directory: Path) -> list[Path]:
    """Write recipes below a directory, all or none.

    Raises:
        ConfigError: There is no such recipe, or a file is there already.
    """
    texts = {directory / FILES[name]: text for name in names if (text := render(recipe, name))}
    for path in texts:
        if path.exists():
            raise ConfigError(f"--output: {path} exists already; move it away, or name another directory.")
    directory.mkdir(parents=True, exist_ok=True)
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
    return list(texts)


def _given(recipe: Recipe) -> dict[str, Any]:
    """What templates may name."""
    python = platform.python_version_tuple()
    return {
        "recipe": recipe,
        "variables": {**ALWAYS, **_of_nodes(recipe)},
        "always": frozenset(ALWAYS),
        "user": CONTAINER_USER,
        "home": CONTAINER_HOME,
        "ray": version("ray"),
        "torch": version("torch").partition("+")[0],
        "python": f"{python[0]}.{python[1]}",
        "spare_gib": _GIB_OF_A_NODE_FOR_OTHERS,
    }


def _of_nodes(recipe: Recipe) -> dict[str, str]:
    """Variables of every node of a cluster, besides those of any process of luthier's."""
    return {
        "RAY_AUTH_MODE": "token",
        "LUTHIER_CACHE": f"{recipe.shared.mount}/cache",
        "NCCL_SOCKET_IFNAME": recipe.network_interface,
        "GLOO_SOCKET_IFNAME": recipe.network_interface,
    }


def _problem(detail: dict[str, Any], source: Source) -> str:
    """One pydantic error as one line."""
    path = tuple(detail["loc"])
    dotted = ".".join(map(str, path)) or "the recipe"
    if detail["type"] == "extra_forbidden":
        known = _keys_at(path[:-1])
        near = difflib.get_close_matches(str(path[-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"valid keys are {', '.join(known)}."
        return f"{source.origin(path)}: unknown key {dotted!r}; {hint}"
    message = str(detail["msg"]).removeprefix("Value error, ")
    value = "" if isinstance(detail["input"], dict | BaseModel) else f" is {detail['input']!r}"
    return f"{source.origin(path)}: {dotted}{value}: {message}."


def _keys_at(path: Sequence[str | int]) -> list[str]:
    model: Any = Recipe
    for part in path:
        model = model.model_fields[str(part)].annotation
    return list(model.model_fields)
