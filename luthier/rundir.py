"""The directory of one run: named by its config, continued when it was cut off, never overwritten when it ended."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from luthier.config import RunConfig, config_hash, dump_yaml
from luthier.digests import atomic_write_text
from luthier.errors import LuthierError
from luthier.paths import absent, remove_empty, writable_dir

RESULT = "result.json"
"""Written last; a directory without it belongs to a run that did not end."""

CONFIG = "config.yaml"
API_KEY = "api-key"


def open_run(cfg: RunConfig) -> Path:
    """The directory to work in: that of the same config's unfinished run, else a new one.

    Raises:
        OutputError: ``storage_path`` can't be written.
    """
    storage = writable_dir(Path(cfg.storage_path).expanduser(), "storage_path")
    stem, number = f"{cfg.name}-{config_hash(cfg)[:10]}", 1
    while (storage / f"{stem}-{number}" / RESULT).exists():
        number += 1
    workdir = storage / f"{stem}-{number}"
    workdir.mkdir(exist_ok=True)
    atomic_write_text(workdir / CONFIG, dump_yaml(cfg))
    return workdir


@contextmanager
def run_directory(cfg: RunConfig) -> Iterator[Path]:
    """:func:`open_run` for a block of work; bad input that ends it before it made anything leaves nothing behind.

    Raises:
        OutputError: ``storage_path`` can't be written.
    """
    made = absent(Path(cfg.storage_path).expanduser())
    workdir = open_run(cfg)
    try:
        yield workdir
    except LuthierError as error:
        files = {path.name for path in workdir.rglob("*") if path.is_file()}
        if error.exit_code == 2 and files <= {CONFIG, API_KEY}:
            shutil.rmtree(workdir)
            remove_empty(made)
        raise


def newest_artifact(cfg: RunConfig) -> Path | None:
    """The trained artifact of the config's latest run, if there is one."""
    storage = Path(cfg.storage_path).expanduser().resolve()
    found = sorted(storage.glob(f"{cfg.name}-{config_hash(cfg)[:10]}-*/train/artifact/manifest.json"))
    newest = max(found, key=lambda path: path.stat().st_mtime, default=None)
    return None if newest is None else newest.parent


def close_run(workdir: Path, result: Mapping[str, Any]) -> None:
    """Record the outcome; the run is ended."""
    atomic_write_text(workdir / RESULT, json.dumps(result, indent=1, default=str))


def api_key_file(cfg: RunConfig, workdir: Path) -> Path | None:
    """Make sure that the endpoint has a key.

    Returns:
        None where the user's environment holds one, else the file (mode 0600) of a key made now; the environment
        variable is set for this process.
    """
    name = cfg.serve.api_key_env
    if os.environ.get(name):
        return None
    path = workdir / API_KEY
    path.unlink(missing_ok=True)
    key = secrets.token_urlsafe(32)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(key)
    os.environ[name] = key
    return path
