"""The directory of one run: named by its config, continued when it was cut off, never overwritten when it ended."""

from __future__ import annotations

import itertools
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from luthier.config import RunConfig, config_hash, dump_yaml, load_config
from luthier.data_places import digest, exists, located
from luthier.digests import atomic_write_text
from luthier.errors import ConfigError, LuthierError
from luthier.paths import absent, remove_empty, writable_dir

RESULT = "result.json"
"""Written last; a directory without it belongs to a run that did not end."""

CONFIG = "config.yaml"
IDENTITY = "run.json"
"""The verb and the digests of the data: an unfinished run is continued only where they are the same."""

STRATEGY = "strategy.json"
"""What ``strategy: auto`` stands for in this run."""

API_KEY = "api-key"
_LOCK = ".lock"
_MADE_FIRST = {CONFIG, IDENTITY, STRATEGY, API_KEY, _LOCK}

# What shapes the weights; a config that differs in the rest only may judge them.
_SHAPING = {"name", "seed", "model", "datasets", "data", "train", "stages", "tune"}


@contextmanager
def run_directory(cfg: RunConfig, verb: str) -> Iterator[Path]:
    """A directory that this process alone works in for the length of a block.

    It is that of the same verb's unfinished run of the same config and data, unless another process is at work in
    it; else a new one. Bad input that ends the block before it made anything leaves nothing behind.

    Args:
        cfg: Names the storage and the run.
        verb: What is done: a finished or cut-off ``train`` is no part of a ``run``.

    Raises:
        OutputError: ``storage_path`` can't be written.
    """
    storage = Path(cfg.storage_path).expanduser()
    made = absent(storage)
    workdir, is_new, lock = _claim(writable_dir(storage, "storage_path"), cfg, verb)
    try:
        yield workdir
    except LuthierError as error:
        files = {path.name for path in workdir.rglob("*") if path.is_file()}
        if error.exit_code == 2 and is_new and files <= _MADE_FIRST:
            shutil.rmtree(workdir)
            remove_empty(made)
        raise
    finally:
        lock.release()


def _claim(storage: Path, cfg: RunConfig, verb: str) -> tuple[Path, bool, FileLock]:
    """The first directory in line that can be worked in, whether it was made now, and the lock on it."""
    identity = {"verb": verb, "data": _data_digests(cfg)}
    for number in itertools.count(1):
        workdir = storage / f"{cfg.name}-{config_hash(cfg)[:10]}-{number}"
        if (workdir / RESULT).exists():
            continue
        is_new = not workdir.exists()
        workdir.mkdir(exist_ok=True)
        lock = FileLock(workdir / _LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        if not (workdir / RESULT).exists() and _identity_of(workdir) in (None, identity):
            atomic_write_text(workdir / IDENTITY, json.dumps(identity, indent=1))
            atomic_write_text(workdir / CONFIG, dump_yaml(cfg))
            return workdir, is_new, lock
        lock.release()
    raise AssertionError("unreachable: there is always a next number")


def _identity_of(workdir: Path) -> Any:
    try:
        return json.loads((workdir / IDENTITY).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        return "damaged"


def _data_digests(cfg: RunConfig) -> dict[str, str]:
    """SHA-256 of every data file by its path; what is missing is refused by whoever reads it."""
    paths = (path for one in cfg.datasets for path in (one.train, one.validation, one.test) if path is not None)
    return {path: digest(place) for path in paths if exists(place := located(path))}


def newest_artifact(cfg: RunConfig) -> Path | None:
    """The artifact trained last under ``storage_path`` by a config that differs in nothing that shapes weights.

    Settings of the evaluation, the gate, the endpoint and the cluster may differ, and so may the test files.
    """
    storage = Path(cfg.storage_path).expanduser().resolve()
    found = storage.glob(f"{cfg.name}-*/train/artifact/manifest.json")
    alike = (path for path in found if _shaped_alike(path.parents[2] / CONFIG, cfg))
    newest = max(alike, key=lambda path: path.stat().st_mtime, default=None)
    return None if newest is None else newest.parent


def _shaped_alike(config: Path, cfg: RunConfig) -> bool:
    try:
        return _shaping(load_config(config)) == _shaping(cfg)
    except ConfigError:  # of another version of luthier
        return False


def _shaping(cfg: RunConfig) -> dict[str, Any]:
    facts = cfg.model_dump(mode="json", include=_SHAPING)
    return {**facts, "datasets": [{**dataset, "test": None} for dataset in facts["datasets"]]}


def close_run(workdir: Path, result: Mapping[str, Any]) -> None:
    """Record the outcome; the run is ended."""
    atomic_write_text(workdir / RESULT, json.dumps(result, indent=1, default=str))


@contextmanager
def scratch_directory(cfg: RunConfig, prefix: str) -> Iterator[Path]:
    """A directory under ``storage_path`` for the length of a block.

    Raises:
        OutputError: ``storage_path`` can't be written.
    """
    storage = Path(cfg.storage_path).expanduser()
    made = absent(storage)
    place = Path(tempfile.mkdtemp(prefix=prefix, dir=writable_dir(storage, "storage_path")))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
        remove_empty(made)


@contextmanager
def api_key(cfg: RunConfig, directory: Path) -> Iterator[Path | None]:
    """Make sure that the endpoint has a key for the length of a block.

    Yields:
        None where the user's environment holds one, else the file (mode 0600) of a key made now. The environment
        variable is set in this process; at the end file and variable are gone.
    """
    name = cfg.serve.api_key_env
    if os.environ.get(name):
        yield None
        return
    path = directory / API_KEY
    path.unlink(missing_ok=True)
    key = secrets.token_urlsafe(32)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(key)
    os.environ[name] = key
    try:
        yield path
    finally:
        os.environ.pop(name, None)
        path.unlink(missing_ok=True)
