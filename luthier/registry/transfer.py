"""Copies of artifacts into and out of a store, checked against the manifest on both ways."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

from luthier.digests import sha256_bytes
from luthier.errors import IntegrityError, LuthierError, OutputError
from luthier.manifest import MANIFEST_NAME, Manifest, load_manifest, mismatch, verify
from luthier.registry.records import REGISTRATION_NAME, ModelVersion
from luthier.registry.store import LocalStore, Store


def upload(store: Store, key: str, artifact_dir: Path, manifest: Manifest) -> None:
    """Copy the manifest's files under the key and check what is stored.

    Raises:
        IntegrityError: A stored file differs from the manifest.
        OutputError: The store can't be written.
    """
    for name, expected in manifest.files.items():
        stored = store.upload(artifact_dir / name, f"{key}/{name}")
        if stored != expected:
            raise IntegrityError(mismatch(store.address(f"{key}/{name}"), expected, stored))


def read_checked(store: Store, key: str, sha256: str, told_by: str = REGISTRATION_NAME) -> bytes:
    """Content of a file whose digest is known.

    Args:
        store: The registry's store.
        key: The file.
        sha256: Its digest.
        told_by: File that the digest stands in.

    Raises:
        FileNotFoundError: It isn't there.
        IntegrityError: It was changed.
    """
    data = store.read(key)
    if (actual := sha256_bytes(data)) != sha256:
        raise IntegrityError(
            f"{store.address(key)}: SHA-256 is {actual}, {told_by} says {sha256}; restore it from a copy."
        )
    return data


def download(store: Store, key: str, version: ModelVersion, destination: Path) -> Path:
    """Copy a version to a directory, which appears whole and verified or not at all.

    Args:
        store: The registry's store.
        key: The version's directory.
        version: What it must hold.
        destination: Absent, empty, or a good copy of this very version, which is then kept as it is.

    Raises:
        IntegrityError: A copied file differs from the manifest.
        OutputError: The destination holds something else or can't be written.
    """
    if _holds(destination, version):
        return destination
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise OutputError(
            f"{destination}: holds something other than {version.ref}, or a damaged copy; "
            "remove it or name another directory."
        )
    partial = destination.with_name(f".{destination.name}.{uuid.uuid4().hex}.partial")
    try:
        for name in (*version.manifest.files, *version.registration.companions, REGISTRATION_NAME, MANIFEST_NAME):
            store.download(f"{key}/{name}", partial / name)
        _check_companions(partial, version)
        verify(partial, version.manifest)
        partial.replace(destination)
    except FileNotFoundError as error:
        raise IntegrityError(
            f"{store.address(key)}: {error.filename or error} is missing; restore it from a copy."
        ) from error
    except OSError as error:
        if isinstance(error, LuthierError):
            raise
        if _holds(destination, version):  # another process fetched the same version meanwhile
            return destination
        raise OutputError(f"{destination}: can't be written ({error.strerror}); name a writable directory.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return destination


def _check_companions(directory: Path, version: ModelVersion) -> None:
    here = LocalStore(directory)
    read_checked(here, MANIFEST_NAME, version.registration.manifest_sha256)
    for name, sha256 in version.registration.companions.items():
        read_checked(here, name, sha256)


def _holds(directory: Path, version: ModelVersion) -> bool:
    try:
        if load_manifest(directory) != version.manifest:
            return False
        verify(directory, version.manifest)
    except LuthierError:
        return False
    return True
