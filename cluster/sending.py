"""Which files travel with a job, and the refusal of those that would not."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from luthier.config import RunConfig
from luthier.config.deepspeed_file import DeepspeedFile
from luthier.config.places import absolute
from luthier.errors import ConfigError
from luthier.paths import is_uri

# Never sent: what the cluster makes anew, and what no job reads. Patterns of .gitignore; a leading slash means the top
# of what is packed, which may be the luthier package itself, so a registry is told by what lies in it.
EXCLUDES = (
    ".git", ".venv", "/venv", "/runs", "/registry/*/versions", "/registry/*/aliases", ".cache", "__pycache__", "*.pyc",
    ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis", "/build", "/dist", "*.egg-info",
)  # fmt: skip

_LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
_SPLITS = ("train", "validation", "test")

Rule = Callable[[Path], bool]

logger = logging.getLogger(__name__)
"""Ray's own would tell of each ignore file that it reads."""


def files_to_send(root: Path, excludes: Sequence[str] = EXCLUDES) -> Iterator[tuple[Path, str]]:
    """Every file below a directory that travels, and its name in the package; links are followed.

    A path is left out by the patterns here, by Ray's own default ones, and by the .gitignore and .rayignore files of
    the directories above it.
    """
    yield from _walk(root, root, [_top_rule(root, excludes)], frozenset())


def _walk(root: Path, place: Path, rules: Sequence[Rule], above: frozenset[Path]) -> Iterator[tuple[Path, str]]:
    real = place.resolve()
    if real in above:  # a link to a directory that it lies in
        return
    rules = [*rules, *_ignore_rules(place)]
    for path in sorted(place.iterdir()):
        if any(rule(path) for rule in rules):
            continue
        if path.is_dir():
            yield from _walk(root, path, rules, above | {real})
        elif path.is_file():
            yield path, path.relative_to(root).as_posix()


def is_sent(path: Path, root: Path, excludes: Sequence[str] = EXCLUDES) -> bool:
    """Whether a path travels: neither it nor a directory above is left out.

    Args:
        path: Something below ``root``.
        root: The working directory.
        excludes: Patterns of .gitignore.
    """
    rules, place = [_top_rule(root, excludes)], root
    for part in path.relative_to(root).parts:
        rules.extend(_ignore_rules(place))
        place = place / part
        if any(rule(place) for rule in rules):
            return False
    return True


def _top_rule(root: Path, excludes: Sequence[str]) -> Rule:
    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import _get_excludes

    rule: Rule = _get_excludes(root, [*get_runtime_env_default_excludes(), *excludes])
    return rule


def _ignore_rules(place: Path) -> list[Rule]:
    from ray._private.runtime_env.packaging import get_excludes_from_ignore_files

    return list(get_excludes_from_ignore_files(place, include_gitignore=True, logger=logger))


def check_inputs(cfg: RunConfig, root: Path) -> None:
    """Refuse data and models that the job would not find.

    Relative paths travel with the directory; absolute ones must lie on storage that the cluster shares, which the job
    itself checks on every node before it starts.

    Raises:
        ConfigError: Lists each such path.
    """
    named = [(f"datasets[].{split}", getattr(d, split)) for d in cfg.datasets for split in _SPLITS]
    named += [("evaluate.json_schema", cfg.evaluate.json_schema), ("evaluate.prices", cfg.evaluate.prices)]
    settings = cfg.train.deepspeed
    if isinstance(settings, DeepspeedFile) and (root / settings.file).exists():  # a dumped config brings the content
        named.append(("train.deepspeed", settings.file))
    problems = [f"{key}: {path!r} {why}" for key, path in named if path is not None and (why := _not_sent(path, root))]
    model = cfg.model.model_name_or_path
    is_directory = model.startswith((".", "~")) or (root / model).is_dir()
    if is_directory and (why := _not_sent(model, root, directory=True)):
        problems.append(f"model.model_name_or_path: {model!r} {why}")
    if problems:
        raise ConfigError("\n".join(problems))


def _not_sent(path: str, root: Path, *, directory: bool = False) -> str | None:
    if is_uri(path) or Path(path).is_absolute():
        return None
    if path.startswith("~"):
        return "is a home directory, which a job does not share; give an absolute path on shared storage."
    resolved = (root / path).resolve()
    if not resolved.is_relative_to(root):
        return f"lies outside {str(root)!r}, which the job gets; submit from a directory that contains it."
    if not resolved.exists():
        return "does not exist; correct the path."
    if resolved.is_dir() and not directory:
        return "is a directory; name a file."
    if not is_sent(resolved, root):
        return (
            "is never sent (luthier's exclusions, .gitignore or .rayignore); move it, or give an absolute path on "
            "shared storage."
        )
    return None


def output_overrides(cfg: RunConfig, url: str) -> tuple[str, ...]:
    """Assignments that let a job write where a run from here would: a job's own directory is temporary.

    Raises:
        ConfigError: A place to write is relative, and the cluster is not on this machine.
    """
    places = {"storage_path": cfg.storage_path, "registry.uri": cfg.registry.uri}
    relative = {key: place for key, place in places.items() if not is_uri(place) and not Path(place).is_absolute()}
    if relative and urlsplit(url).hostname not in _LOCAL_HOSTS:
        named = " and ".join(f"{key}={place!r}" for key, place in relative.items())
        raise ConfigError(
            f"{named} would lie in the job's temporary directory on {url}; give an absolute path on storage that the "
            "cluster shares, or for the registry a URI."
        )
    return tuple(f"{key}={json.dumps(absolute(place))}" for key, place in relative.items())
