"""The pinned package sets hold all that luthier says it needs, so that a clean install misses nothing."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
OF_THE_MAKEFILE = {"torch"}
"""Installed before the pinned sets, by its own line."""


def pins(path: Path) -> dict[str, str]:
    """Of each package that a file pins, its version."""
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    found = [Requirement(line) for line in lines if line and not line.startswith("-")]
    return {canonicalize_name(one.name): str(one.specifier).removeprefix("==") for one in found}


@pytest.mark.parametrize("name", ["cpu.txt", "gpu.txt"])
def test_each_dependency_is_pinned_to_a_version_that_it_allows(name: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pinned = pins(ROOT / "requirements" / name)
    for needed in map(Requirement, project["dependencies"]):
        if needed.name not in OF_THE_MAKEFILE:
            version = pinned.get(canonicalize_name(needed.name))
            assert version is not None, f"requirements/{name} does not pin {needed.name}"
            assert needed.specifier.contains(version), f"requirements/{name}: {needed.name}=={version}, not {needed}"
