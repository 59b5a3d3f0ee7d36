"""Secrets looked up where they lie, in the process that needs them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.redaction import LEAST_CHARACTERS, PROCESS

if TYPE_CHECKING:
    from luthier.config import RunConfig
    from luthier.config.secret import SecretRef

REFERENCES = "LUTHIER_SECRETS"
"""Environment variable by which references, never values, come to worker processes."""

WORKER_HOOK = "luthier.secret_refs.set_up_worker"
"""The name by which Ray finds what a worker process does first."""


@dataclass(frozen=True)
class Resolved:
    """What this process found.

    Attributes:
        values: Variable to secret.
        problems: Variable to problem and remedy, of those that were not found.
    """

    values: Mapping[str, str]
    problems: Mapping[str, tuple[str, str]]


def resolve(references: Mapping[str, SecretRef]) -> Resolved:
    """Look secrets up on this machine."""
    values: dict[str, str] = {}
    problems: dict[str, tuple[str, str]] = {}
    for name, reference in references.items():
        try:
            value = _value(reference)
        except (OSError, UnicodeDecodeError) as error:
            problems[name] = f"secrets.{name}: {reference} can't be read ({error})", "correct the path or its rights"
            continue
        if len(value) >= LEAST_CHARACTERS:
            values[name] = value
        elif value:
            why = f"has {len(value)} characters; with fewer than {LEAST_CHARACTERS} it can't be told from other text"
            problems[name] = f"secrets.{name}: {reference} {why}", "use a longer secret"
        else:
            problems[name] = f"secrets.{name}: {reference} is not set or empty", "set it on this node"
    return Resolved(values, problems)


def apply_secrets(cfg: RunConfig) -> None:
    """Put a run's secrets into this process's environment, where libraries look for them, and out of what it prints.

    What is missing is told by the preflight, of every node at once.
    """
    if cfg.secrets:
        _apply(cfg.secrets)
    judge = cfg.evaluate.judge
    for name in (cfg.serve.api_key_env, judge and judge.api_key_env):
        if name and (key := os.environ.get(name)):
            PROCESS.learn(name, key)


def references_for_workers(cfg: RunConfig) -> dict[str, str]:
    """The environment variable that tells worker processes where secrets lie; none where there are none."""
    if not cfg.secrets:
        return {}
    told = {name: one.model_dump(exclude_none=True) for name, one in cfg.secrets.items()}
    return {REFERENCES: json.dumps(told, sort_keys=True)}


def set_up_worker() -> None:
    """What each worker process of a run with secrets does first: Ray calls it by its name."""
    from luthier.config.secret import SecretRef

    told = json.loads(os.environ.get(REFERENCES, "{}"))
    _enter({name: SecretRef.model_validate(one) for name, one in told.items()})


def enter_worker(cfg: RunConfig) -> None:
    """The same for a process that Ray was given another hook for, and that has the config."""
    if cfg.secrets:
        _enter(cfg.secrets)


def _enter(references: Mapping[str, SecretRef]) -> None:
    _apply(references)
    PROCESS.guard_streams()
    PROCESS.guard_task_errors()


def _apply(references: Mapping[str, SecretRef]) -> None:
    for name, value in resolve(references).values.items():
        os.environ[name] = value
        PROCESS.learn(name, value)
    PROCESS.guard_logging()


def _value(reference: SecretRef) -> str:
    if reference.file is not None:
        return Path(reference.file).expanduser().read_text(encoding="utf-8").strip()
    return os.environ.get(str(reference.env), "").strip()
