"""Where captured requests lie: a directory that its owner alone can enter, and files in it that make room for others."""

from __future__ import annotations

import errno
import os
import secrets
from contextlib import suppress
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path

from luthier.config.capture import CaptureConfig
from luthier.errors import ConfigError

PATTERN = "capture-*.jsonl"
"""Names of the files; in order of their names they are in order of time."""

HASH_KEY = "hash.key"

_PRIVATE_DIRECTORY, _PRIVATE_FILE = 0o700, 0o600


def check_directory(path: Path) -> None:
    """Refuse a directory that others can enter.

    Raises:
        ConfigError: It is another user's, open to others, or no directory.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        return
    if not path.is_dir():
        raise ConfigError(f"serve.capture.path: {path} is not a directory; name one.")
    if status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise ConfigError(
            f"serve.capture.path: {path} is open to other users (mode {status.st_mode & 0o777:o}, owner "
            f"{status.st_uid}); make it yours and chmod 700, or name a directory that is not there yet."
        )


def open_directory(settings: CaptureConfig) -> bytes:
    """Make the directory if need be.

    Returns:
        The key of digests; empty where none is needed.

    Raises:
        ConfigError: The directory can't be made or is open to others, or the variable with the key is not set.
    """
    assert settings.path is not None
    path = Path(settings.path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=_PRIVATE_DIRECTORY, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"serve.capture.path: {path} can't be made ({error.strerror}).") from error
    check_directory(path)
    if settings.redact != "hash":
        return b""
    if settings.hash_key_env is None:
        return _own_key(path / HASH_KEY)
    key = os.environ.get(settings.hash_key_env)
    if not key:
        raise ConfigError(
            f"serve.capture.hash_key_env: {settings.hash_key_env} is not set where the ingress runs; set it before Ray is "
            "started there, or leave hash_key_env out for a random key."
        )
    return key.encode()


def _own_key(path: Path) -> bytes:
    with suppress(FileExistsError), _create(path) as file:  # one that is there goes on: the same digests as before
        file.write(secrets.token_hex(32).encode())
    return path.read_bytes()


def _create(path: Path) -> FileIO:
    opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, _PRIVATE_FILE)
    return FileIO(opened, "w")


class Files:
    """Appends lines, to a new file where the last one is full.

    Args:
        directory: Where.
        max_file_bytes: Largest size of a file.
        max_files: Files that are kept.
    """

    def __init__(self, directory: Path, max_file_bytes: int, max_files: int) -> None:
        self._directory = directory
        self._max_file_bytes = max_file_bytes
        self._max_files = max_files
        self._file: FileIO | None = None
        self._size = 0

    def append(self, line: bytes) -> None:
        """Write a line, at once.

        Raises:
            ValueError: It is longer than a file may be.
            OSError: The disk is full, or the directory is gone.
        """
        if len(line) > self._max_file_bytes:
            raise ValueError("longer than serve.capture.max_file_bytes")
        if self._file is None or self._size + len(line) > self._max_file_bytes:
            self._begin()
        assert self._file is not None
        if self._file.write(line) != len(line):
            self._file.truncate(self._size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._size += len(line)

    def _begin(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        for old in sorted(self._directory.glob(PATTERN))[: -(self._max_files - 1) or None]:
            old.unlink(missing_ok=True)
        now = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
        self._file = _create(self._directory / f"capture-{now}-{secrets.token_hex(4)}.jsonl")
        self._size = 0
