"""SHA-256 digests, and writes that are either whole or absent after a crash."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

from luthier.redaction import PROCESS

_BLOCK_BYTES = 1 << 20


def sha256_bytes(data: bytes) -> str:
    """Hexadecimal SHA-256 of the bytes."""
    return hashlib.sha256(data).hexdigest()


def sha256_stream(stream: BinaryIO) -> tuple[str, int]:
    """Digest and size in bytes of the rest of a stream, read a megabyte at a time."""
    digest, size_bytes = hashlib.sha256(), 0
    while block := stream.read(_BLOCK_BYTES):
        digest.update(block)
        size_bytes += len(block)
    return digest.hexdigest(), size_bytes


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content.

    Raises:
        OSError: The file can't be read.
    """
    with path.open("rb") as stream:
        return sha256_stream(stream)[0]


def sha256_files(root: Path, names: Iterable[str]) -> dict[str, str]:
    """Digest of each named file, by its path relative to ``root``, in sorted order."""
    return {name: sha256_file(root / name) for name in sorted(names)}


def canonical_json(value: object) -> str:
    """The one JSON text of a value: sorted keys, no spaces, UTF-8 unescaped.

    Raises:
        TypeError: The value holds something that JSON has no form for.
        ValueError: It holds NaN or an infinity.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_json(value: object) -> str:
    """Digest of a value's canonical JSON; equal values have equal digests in every process."""
    return sha256_bytes(canonical_json(value).encode("utf-8"))


def fsync_dir(path: Path) -> None:
    """Make the directory's entries (names made, renamed or removed) survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Write or replace a file so that a reader sees the old content or the new, never a part.

    Raises:
        OSError: The directory is missing or can't be written.
    """
    _publish(path, data, os.replace)


def atomic_write_text(path: Path, text: str) -> None:
    """:func:`atomic_write_bytes` of the text's UTF-8, without the secrets that this process knows."""
    atomic_write_bytes(path, PROCESS.text(text).encode("utf-8"))


def exclusive_write_bytes(path: Path, data: bytes) -> None:
    """Make a file, whole, unless the name is taken: of any number of concurrent writers exactly one wins.

    It relies on ``link(2)``, which fails when the name exists, on local disks and on NFS alike.

    Raises:
        FileExistsError: The name is taken; what it holds is untouched.
        OSError: The directory is missing, can't be written, or knows no hard links.
    """

    def link(source: Path, target: Path) -> None:
        os.link(source, target)
        source.unlink()

    _publish(path, data, link)


def _publish(path: Path, data: bytes, place: Callable[[Path, Path], None]) -> None:
    # A name of our own rather than mkstemp, whose mode 0600 would lock the other users out.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        place(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_dir(path.parent)
