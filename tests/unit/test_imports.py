"""Imports run one way, heavy packages are imported where they are used, and each part of Ray has one user."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import luthier

PACKAGE = Path(luthier.__file__).parent
FOLDERS = ("trainers", "tuning", "serving", "cluster")
# Those that see every package, and import it when they need it.
TOP = {
    "adding",
    "api",
    "arbiter",
    "bases",
    "costing",
    "endpoints",
    "fewshot",
    "pipeline",
    "stages",
    "judging",
    "live",
    "measuring",
    "preflight",
    "reporting",
    "scoring",
    "service",
    "exporting",
    "promotion",
    "__init__",
    "cli",
}
ALLOWED = {"trainers": set(), "tuning": {"trainers"}, "serving": set(), "cluster": set(), "kernel": set()}
HEAVY = {"torch", "ray", "transformers", "vllm", "peft", "deepspeed", "numpy", "matplotlib", "sklearn"}
# Part of Ray to the package that may use it.
OWNERS = {"ray.train": "trainers", "ray.tune": "tuning", "ray.serve": "serving", "ray.job_submission": "cluster"}


def modules() -> list[Path]:
    places = (PACKAGE, *(PACKAGE / folder for folder in FOLDERS))  # which rglob does not follow, being links
    return sorted({path for place in places for path in place.rglob("*.py")})


def part_of(path: Path) -> str:
    """The folder that a module belongs to, ``top`` or ``kernel``."""
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return first if first in FOLDERS else "top" if first in TOP else "kernel"


def imports_in(path: Path, *, at_import: bool = False) -> Iterator[str]:
    """Dotted names that a module imports.

    Args:
        path: The module.
        at_import: Only what is imported with the module: not inside functions, nor for the type checker alone.
    """
    pending: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if at_import and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        pending.extend(ast.iter_child_nodes(node))


def below(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


MODULES = modules()


def misplaced(path: Path) -> list[str]:
    """What a module imports against the direction."""
    part = part_of(path)
    wrong = []
    for name in imports_in(path, at_import=part == "top"):
        root, _, rest = name.partition(".")
        piece = rest.partition(".")[0]
        if root != "luthier" or piece == part:
            continue
        if (piece in FOLDERS and (part == "top" or piece not in ALLOWED[part])) or (piece in TOP and part != "top"):
            wrong.append(f"{path.relative_to(PACKAGE)}: {name}")
    return wrong


def test_every_part_is_looked_at() -> None:
    assert {part_of(path) for path in MODULES} == {*FOLDERS, "top", "kernel"}
    assert "ray" in {name.partition(".")[0] for path in MODULES for name in imports_in(path)}


def test_imports_run_one_way() -> None:
    assert [name for path in MODULES for name in misplaced(path)] == []


def test_the_kernel_imports_nothing_heavy_with_itself() -> None:
    light = [path for path in MODULES if part_of(path) in ("kernel", "top", "cluster")]
    heavy = {path: {name.partition(".")[0] for name in imports_in(path, at_import=True)} & HEAVY for path in light}
    assert {path: names for path, names in heavy.items() if names} == {}


def test_each_part_of_ray_has_one_user() -> None:
    wrong = [
        f"{path.relative_to(PACKAGE)}: {name}"
        for path in MODULES
        for name in imports_in(path)
        for owned, owner in OWNERS.items()
        if below(name, owned) and owner != part_of(path)
    ]
    assert wrong == []


def test_the_python_api_mirrors_the_verbs_and_imports_nothing() -> None:
    code = (
        "import sys, luthier; assert not {'torch', 'ray', 'pydantic', 'luthier.api'} & set(sys.modules);"
        "assert callable(luthier.load_config); assert set(luthier.__all__) <= set(dir(luthier));"
        "assert not {'torch', 'ray'} & set(sys.modules);"
        "assert all(callable(getattr(luthier, name)) for name in luthier.__all__);"
        "assert not {'torch', 'ray'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    with pytest.raises(AttributeError, match="no attribute 'dance'"):
        luthier.dance  # noqa: B018
