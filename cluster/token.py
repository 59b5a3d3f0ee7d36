"""The secret that every request to a cluster must carry: where Ray looks for it, made once, readable by its owner only."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from luthier.errors import ConfigError

TOKEN = "RAY_AUTH_TOKEN"
TOKEN_PATH = "RAY_AUTH_TOKEN_PATH"

_NUM_RANDOM_BYTES = 32


def token_path() -> Path | None:
    """The file that Ray reads the token from; None: the environment holds the token itself, which Ray prefers."""
    if os.environ.get(TOKEN, "").strip():
        return None
    named = os.environ.get(TOKEN_PATH)
    return Path(named).expanduser().absolute() if named else Path.home() / ".ray" / "auth_token"


def ensure_token(path: Path | None) -> None:
    """Make the file if it is not there, and close it to others.

    Raises:
        ConfigError: The file is empty, or can't be made or closed.
    """
    if path is None:
        return
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            path.chmod(0o600)
        else:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(secrets.token_hex(_NUM_RANDOM_BYTES))
        empty = not path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(
            f"{TOKEN_PATH}: {str(path)!r} can't be used as the token's file ({error.strerror}); name one of your own."
        ) from error
    if empty:
        raise ConfigError(f"{TOKEN_PATH}: {str(path)!r} is empty; remove it, and a token is made.")


def read_token(path: Path | None) -> str:
    """The token, or nothing where it is not to be had."""
    if path is None:
        return os.environ.get(TOKEN, "")
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def ray_token() -> str | None:
    """The token that Ray itself would use here; None: there is none.

    Raises:
        ConfigError: The file can't be read.
    """
    path = token_path()
    if path is None:
        return os.environ[TOKEN].strip()
    if not os.environ.get(TOKEN_PATH) and not path.exists():
        return None
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{TOKEN_PATH}: {str(path)!r} can't be read; name the file of Ray's token.") from error
