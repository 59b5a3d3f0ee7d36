"""Where a registry keeps its bytes: a local directory, or anything that fsspec reaches.

The registry needs one thing that a plain file system API does not promise: :meth:`Store.create`, by which
exactly one of several concurrent writers gets a key. Nothing is ever overwritten, so no lock is held across
machines.
"""

from __future__ import annotations

import errno
import logging
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from os import fsync
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast
from urllib.parse import urlsplit

import fsspec  # type: ignore[import-untyped]
from filelock import FileLock
from fsspec.core import url_to_fs  # type: ignore[import-untyped]
from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]

from luthier.digests import atomic_write_bytes, exclusive_write_bytes, fsync_dir, sha256_stream
from luthier.errors import ConfigError, LuthierError, OutputError
from luthier.paths import check_writable, is_uri
from luthier.safe_files import FileDigest

_log = logging.getLogger(__name__)

_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
# Backends whose ``pipe_file(mode="create")`` is one conditional request (If-None-Match, ifGenerationMatch).
# fsspec's default looks first and writes then, which two writers can both pass.
_CONDITIONAL_CREATE = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az"}
_memory_lock = threading.Lock()


class Store(Protocol):
    """Write-once keys under one root; a key is a relative path of checked components."""

    def address(self, key: str) -> str:
        """Path or URI of the key, for people."""

    def local_path(self, key: str) -> Path | None:
        """The key's path where the store is a local directory, else None."""

    def check_writable(self) -> None:
        """Find out whether anything can be stored, as far as that can be told without storing it.

        Raises:
            OutputError: It can't.
        """

    def children(self, key: str) -> list[str]:
        """Names directly under the key; empty if there is no such key."""

    def read(self, key: str) -> bytes:
        """The key's content.

        Raises:
            FileNotFoundError: There is no such key.
        """

    def create(self, key: str, data: bytes) -> None:
        """Write the key, whole, unless it exists.

        Raises:
            FileExistsError: It does; its content is untouched.
            OutputError: It can't be written.
        """

    def upload(self, source: Path, key: str) -> FileDigest:
        """Copy a file to the key, read it back, and return the digest of what is stored."""

    def download(self, key: str, target: Path) -> None:
        """Copy the key to a file that does not exist yet."""


def open_store(uri: str) -> Store:
    """The store at a local path or an fsspec URI. Nothing is made or contacted yet.

    Raises:
        ConfigError: The URI is empty, carries a password, or its scheme's package isn't installed.
    """
    if not uri.strip():
        raise ConfigError("registry.uri is empty; name a directory or an fsspec URI such as s3://bucket/registry.")
    if is_uri(uri) and urlsplit(uri).password:
        raise ConfigError(
            "registry.uri carries a password; give credentials through the backend's environment or files."
        )
    try:
        filesystem, path = url_to_fs(uri)
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"registry.uri {uri!r}: {error}; correct the scheme or install its fsspec package."
        ) from error
    if isinstance(filesystem, LocalFileSystem):
        return LocalStore(Path(path))
    return RemoteStore(filesystem, path.rstrip("/"))


class LocalStore:
    """A directory, safe for concurrent processes on one machine or on a shared NFS mount.

    Args:
        root: Made on the first write.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def address(self, key: str) -> str:
        """Path of the key."""
        return str(self._root / key)

    def local_path(self, key: str) -> Path | None:
        """Path of the key."""
        return self._root / key

    def check_writable(self) -> None:
        """Make a file in the directory, and take it away again."""
        check_writable(self._root, "registry.uri")

    def children(self, key: str) -> list[str]:
        """Names directly under the key, without hidden ones."""
        try:
            return sorted(path.name for path in (self._root / key).iterdir() if not path.name.startswith("."))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def read(self, key: str) -> bytes:
        """The file's content."""
        return (self._root / key).read_bytes()

    def create(self, key: str, data: bytes) -> None:
        """Write the file, whole, unless it exists."""
        path = self._root / key
        with _writing(self.address(key)):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                exclusive_write_bytes(path, data)
            except OSError as error:
                if error.errno not in _NO_HARD_LINKS:
                    raise
                self._create_locked(path, data)

    def _create_locked(self, path: Path, data: bytes) -> None:
        # FUSE mounts, SMB and exFAT know no hard links; there the guarantee is as good as the mount's locks.
        with FileLock(self._root / ".lock"):
            if path.exists():
                raise FileExistsError(errno.EEXIST, "exists", str(path))
            atomic_write_bytes(path, data)

    def upload(self, source: Path, key: str) -> FileDigest:
        """Copy the file, flush it to disk, make it read-only, and digest the copy."""
        path = self._root / key
        with _writing(self.address(key)):
            path.parent.mkdir(parents=True, exist_ok=True)
            with source.open("rb") as reader, path.open("xb") as writer:
                shutil.copyfileobj(reader, writer, 1 << 20)
                writer.flush()
                fsync(writer.fileno())
            path.chmod(0o444)
            fsync_dir(path.parent)
            with path.open("rb") as stream:
                return _digest(stream)

    def download(self, key: str, target: Path) -> None:
        """Copy the file."""
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self._root / key, target)


class RemoteStore:
    """Any other fsspec file system. :meth:`create` is exclusive where the backend has a conditional write.

    Args:
        filesystem: The backend.
        root: Path within it.
    """

    def __init__(self, filesystem: fsspec.AbstractFileSystem, root: str) -> None:
        self._fs = cast(Any, filesystem)  # fsspec carries no types
        self._root = root
        protocols = {filesystem.protocol} if isinstance(filesystem.protocol, str) else set(filesystem.protocol)
        self._object_store = bool(protocols & _CONDITIONAL_CREATE)
        self._exclusive = self._object_store or "memory" in protocols

    def address(self, key: str) -> str:
        """URI of the key."""
        return str(self._fs.unstrip_protocol(self._path(key)))

    def local_path(self, key: str) -> Path | None:
        """None: fetch a copy."""
        return None

    def check_writable(self) -> None:
        """Reach the backend with its credentials; a listing leaves nothing behind."""
        self.children("")

    def children(self, key: str) -> list[str]:
        """Names directly under the key, listed anew."""
        path = self._path(key)
        with _reaching(self.address(key)):
            # A listing that fsspec cached would hide what other writers have made since.
            self._fs.invalidate_cache()
            try:
                found = self._fs.ls(path, detail=False)
            except FileNotFoundError:
                return []
        names = {entry.rstrip("/").rsplit("/", 1)[-1] for entry in found if entry.strip("/") != path.strip("/")}
        return sorted(name for name in names if name and not name.startswith("."))

    def read(self, key: str) -> bytes:
        """The object's content."""
        with _reaching(self.address(key)):
            return bytes(self._fs.cat_file(self._path(key)))

    def create(self, key: str, data: bytes) -> None:
        """Write the object unless it exists."""
        if not self._exclusive:
            _log.warning(
                "%s: no conditional write here; let one process at a time register or move aliases.",
                self.address(""),
            )
        with _reaching(self.address(key), writing=True), _memory_lock:
            self._make_parent(key)
            self._fs.pipe_file(self._path(key), data, mode="create")

    def upload(self, source: Path, key: str) -> FileDigest:
        """Copy the file, then read the object back and digest it."""
        path = self._path(key)
        with _reaching(self.address(key), writing=True):
            self._make_parent(key)
            self._fs.put_file(str(source), path)
            with self._fs.open(path, "rb") as stream:
                return _digest(stream)

    def download(self, key: str, target: Path) -> None:
        """Copy the object."""
        with _reaching(self.address(key)):
            target.parent.mkdir(parents=True, exist_ok=True)
            self._fs.get_file(self._path(key), str(target))

    def _make_parent(self, key: str) -> None:
        # Object stores have no directories, and there makedirs would make a mistyped bucket.
        if not self._object_store:
            self._fs.makedirs(self._fs._parent(self._path(key)), exist_ok=True)

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}".rstrip("/")


def _digest(stream: BinaryIO) -> FileDigest:
    sha256, size_bytes = sha256_stream(stream)
    return FileDigest(sha256=sha256, size_bytes=size_bytes)


@contextmanager
def _writing(address: str) -> Iterator[None]:
    try:
        yield
    except (FileExistsError, LuthierError):
        raise
    except OSError as error:
        raise OutputError(f"{address}: can't be written ({error.strerror}); name a writable registry.uri.") from error


@contextmanager
def _reaching(address: str, writing: bool = False) -> Iterator[None]:
    try:
        yield
    except (FileExistsError, LuthierError):
        raise
    except Exception as error:
        if isinstance(error, FileNotFoundError) and not writing:
            raise
        # Backends raise their own libraries' errors (botocore, google.api_core, ...), which share no root.
        raise OutputError(
            f"{address}: {type(error).__name__}: {error}; check registry.uri, "
            "the network and the backend's credentials."
        ) from error
