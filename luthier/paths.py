"""Where luthier keeps what it can make again, and what a run leaves behind."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from luthier.errors import OutputError


def cache_dir() -> Path:
    """Directory of converted models and tokenised data: ``$LUTHIER_CACHE``, else ``~/.cache/luthier``."""
    return Path(os.environ.get("LUTHIER_CACHE", "~/.cache/luthier")).expanduser()


def state_dir() -> Path:
    """Directory of what can't be made again: ``$LUTHIER_STATE``, else ``~/.local/state/luthier``."""
    return Path(os.environ.get("LUTHIER_STATE", "~/.local/state/luthier")).expanduser()


def is_uri(place: str) -> bool:
    """Whether a config names a place by a scheme, such as ``s3://``, rather than by a path."""
    return "://" in place


def writable_dir(path: Path, key: str) -> Path:
    """Make a directory, and prove that files can be made in it.

    Args:
        path: The directory.
        key: The config key that named it, for the message.

    Raises:
        OutputError: It can't be made or written.
    """
    probe = path / f".write-{os.getpid()}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(
            f"{key}: {str(path)!r} can't be written ({error.strerror}); name a writable directory."
        ) from error
    return path.resolve()


def check_writable(path: Path, key: str) -> None:
    """:func:`writable_dir`, but a directory that was not there is not left there either."""
    made = absent(path)
    writable_dir(path, key)
    remove_empty(made)


def absent(path: Path) -> list[Path]:
    """The directory and those above it that do not exist yet, deepest first."""
    return [one for one in (path, *path.parents) if not one.exists()]


def remove_empty(directories: Sequence[Path]) -> None:
    """Remove directories, deepest first, as far as nothing lies in them."""
    with suppress(OSError):
        for directory in directories:
            directory.rmdir()
