"""API keys: who may ask, which models, and how often. Only SHA-256 digests are kept.

Keys are 256 random bits, so a plain digest can't be reversed by guessing, as a password's could.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from luthier.digests import atomic_write_text
from luthier.errors import ConfigError
from luthier.safe_files import Sha256

KEY_PREFIX = "lk-"
"""What every key begins with, so that scanners for leaked secrets can tell one."""

KeyName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]


class ApiKey(BaseModel):
    """What is kept of one key."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: KeyName
    """Whose it is; stands in the audit log and in metrics."""

    sha256: Sha256
    """Digest of the key."""

    models: tuple[str, ...] = ("*",)
    """Models that may be asked: ``name`` (each of its versions), ``name@3``, or ``*`` for all."""

    requests_per_minute: Annotated[int, Field(ge=1)] | None = None
    """Highest rate, in bursts of up to a minute's; None: no limit."""

    created_at: str = ""
    """ISO 8601, UTC."""

    @property
    def opens_all(self) -> bool:
        """Whether it opens every model."""
        return "*" in self.models

    def admits(self, canonical: str) -> bool:
        """Whether it opens a model, by the model's canonical name."""
        return any(one in ("*", canonical, canonical.partition("@")[0]) for one in self.models)


class KeyFile(BaseModel):
    """The file of keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = 1
    keys: tuple[ApiKey, ...] = ()


class KeyRing:
    """Every key that opens the endpoint, read anew when the file changes.

    Args:
        master: The key to every model.
        path: File of further keys; None: there are none.

    Raises:
        ConfigError: The file can't be read.
    """

    def __init__(self, master: ApiKey, path: Path | None = None) -> None:
        self._master = master
        self._path = path
        self._seen: tuple[int, int] | None = None
        self._keys: tuple[ApiKey, ...] = (master,)
        self.refresh()

    def refresh(self) -> bool:
        """Read the file if it has changed, and tell whether it had.

        Raises:
            ConfigError: The file can't be read; the keys stay as they were.
        """
        if self._path is None:
            return False
        try:
            status = self._path.stat()
        except OSError as error:
            raise _unreadable(self._path, error.strerror or "can't be read") from error
        seen = (status.st_mtime_ns, status.st_size)
        if seen == self._seen:
            return False
        self._keys = (self._master, *read_keys(self._path))
        self._seen = seen
        return True

    def find(self, given: bytes) -> ApiKey | None:
        """The key that was given. Each is compared in constant time, and all are, found or not."""
        digest = hashlib.sha256(given).hexdigest()
        found = None
        for key in self._keys:
            if hmac.compare_digest(digest, key.sha256):
                found = key
        return found


def digest_of(key: str) -> str:
    """What is kept of a key: its SHA-256, in hex."""
    return hashlib.sha256(key.encode()).hexdigest()


def read_keys(path: Path) -> tuple[ApiKey, ...]:
    """The keys of a file; none where it does not exist yet.

    Raises:
        ConfigError: It is not a file of keys.
    """
    if not path.exists():
        return ()
    try:
        return KeyFile.model_validate_json(path.read_bytes()).keys
    except OSError as error:
        raise _unreadable(path, error.strerror or "can't be read") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise _unreadable(path, f"{place + ': ' if place else ''}{first['msg']}") from error


def add_key(
    path: Path, name: str, models: Sequence[str], requests_per_minute: int | None, *, write: bool = True
) -> str:
    """Make a key and keep its digest.

    Args:
        path: The file of keys, made if it is not there, readable by its owner alone.
        name: Whose it is.
        models: What it opens.
        requests_per_minute: Its highest rate; None: no limit.
        write: False: only see whether it could be done.

    Returns:
        The key; it is kept nowhere.

    Raises:
        ConfigError: The name is taken or not a slug, the rate is below 1, or the file is not one of keys.
    """
    keys = read_keys(path)
    if any(key.name == name for key in keys):
        raise ConfigError(f"{path}: there is a key named {name!r}; choose another name, or revoke that one first.")
    made = KEY_PREFIX + secrets.token_urlsafe(32)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        entry = ApiKey(
            name=name,
            sha256=digest_of(made),
            models=tuple(models) or ("*",),
            requests_per_minute=requests_per_minute,
            created_at=now,
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ConfigError(f"{'.'.join(map(str, first['loc']))}: {first['input']!r}: {first['msg']}.") from error
    if write:
        _write(path, (*keys, entry))
    return made


def revoke_key(path: Path, name: str, *, write: bool = True) -> None:
    """Take a key out of the file; endpoints that read it refuse the key from their next refresh on.

    Args:
        path: The file of keys.
        name: Whose key it is.
        write: False: only see whether it could be done.

    Raises:
        ConfigError: There is no such key, or the file is not one of keys.
    """
    keys = read_keys(path)
    kept = tuple(key for key in keys if key.name != name)
    if len(kept) == len(keys):
        known = ", ".join(key.name for key in keys) or "none"
        raise ConfigError(f"{path}: there is no key named {name!r}; keys are: {known}.")
    if write:
        _write(path, kept)


def bearer(authorization: bytes) -> bytes:
    """The key in an ``Authorization`` header: ``Bearer KEY``, or the password of ``Basic``, which browsers ask for."""
    scheme, _, given = authorization.partition(b" ")
    given = given.strip()
    if scheme.lower() == b"bearer":
        return given
    if scheme.lower() == b"basic":
        return _password(given)
    return b""


def _password(encoded: bytes) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True).partition(b":")[2]
    except binascii.Error:
        return b""


def _write(path: Path, keys: tuple[ApiKey, ...]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, KeyFile(keys=keys).model_dump_json(indent=1) + "\n")
    path.chmod(0o600)


def _unreadable(path: Path, problem: str) -> ConfigError:
    return ConfigError(f"serve.keys_file: {path}: {problem}; make it with: luthier keys add NAME --file {path}")
