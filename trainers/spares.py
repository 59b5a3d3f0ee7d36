"""Processes that stand by for workers to come: started, with everything imported.

Starting Python and importing torch and transformers takes most of the time before a run's first step, and between a
worker's death and the next one. So the first workers' processes are asked for before Ray Train is, and import while its
controller starts; later each worker asks the Ray daemon of its machine for one more process like its own, which imports
what the worker has imported by then. Either import is a setup hook of the process.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from luthier.digests import atomic_write_text
from luthier.trainers.prestart import prestart, runtime_env_with

log = logging.getLogger(__name__)

_AT_WORK = "LUTHIER_AT_WORK_FILE"
_HOOK = "__RAY_WORKER_PROCESS_SETUP_HOOK_ENV_VAR"
"""How Ray tells a process its hook; the public setting exists for whole jobs only."""

_EVERY_WORKER_IMPORTS = ("torch", "transformers", "peft", "ray.train.torch", "luthier.trainers.loop")
_LOOK_EVERY_S = 2.0
_KEEP_FIRST_FOR_S = 60
_KEEP_FOR_S = 365 * 24 * 3600
_asked = threading.Event()
_at_work = threading.Event()


@contextmanager
def standing_by(file: Path) -> Iterator[dict[str, str]]:
    """Environment variables for workers that have processes stand by while the block runs.

    Args:
        file: What those are to import, on storage that all see; they leave when it is gone.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(file, "\n".join(_EVERY_WORKER_IMPORTS))
    try:
        yield {_AT_WORK: str(file), _HOOK: f"{__name__}.stand_by"}
    finally:
        file.unlink(missing_ok=True)


def stand_by() -> None:
    """Import what workers import, and leave with the run; Ray calls it in each new process of the workers' kind."""
    file = Path(os.environ[_AT_WORK])
    threading.Thread(target=_leave_after, args=(file,), daemon=True, name="spare").start()
    # Which GPUs a process may use is decided when it is given work; torch's other way to look for them fixes it for good.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    try:
        names = file.read_text().split()
    except FileNotFoundError:  # the run ended meanwhile
        return
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever a module that some other one makes up raises; a worker needs none of it
            log.debug("%s can't be imported ahead: %r", name, error)


def stop_standing_by() -> None:
    """Called by a process that is given work: it ends as any other worker does."""
    _at_work.set()


def _leave_after(file: Path) -> None:
    while file.exists() and not _at_work.is_set():
        time.sleep(_LOOK_EVERY_S)
    if not _at_work.is_set():
        os._exit(0)


def start_first(num_workers: int, reserved: Mapping[str, float], variables: Mapping[str, str]) -> None:
    """Have the processes of the first workers started where there is room for these, before Ray Train asks for them.

    Args:
        num_workers: The most workers that there will be.
        reserved: Resource name to amount, of each.
        variables: Environment variables that they are given.
    """
    import ray
    from ray._private.state import available_resources_per_node
    from ray.train.v2._internal.constants import get_env_vars_to_propagate

    # The controller's variables, which its workers inherit, and their own.
    runtime_env = runtime_env_with(
        {"RAY_WARN_BLOCKING_GET_INSIDE_ASYNC": "0", **get_env_vars_to_propagate(), **variables}
    )
    free = available_resources_per_node()
    for node in ray.nodes():
        here = free.get(node["NodeID"], {}) if node["Alive"] else {}
        fit = min([num_workers, *(int(here.get(key, 0.0) // amount) for key, amount in reserved.items())])
        if fit > 0:
            prestart(node, runtime_env, fit, _KEEP_FIRST_FOR_S)
            num_workers -= fit


def keep_one(*, note_imports: bool) -> None:
    """Have one more process like this one started on this machine, the first time that a worker calls.

    Args:
        note_imports: Note for all that stand by what this process has imported: one worker, which imports the most.
    """
    file = Path(os.environ.get(_AT_WORK, ""))
    if _asked.is_set() or not file.is_file():
        return
    _asked.set()
    if note_imports:
        names = [name for name, module in list(sys.modules.items()) if getattr(module, "__spec__", None) is not None]
        atomic_write_text(file, "\n".join(names))
    keep_here(1)


def keep_here(num: int) -> None:
    """Have processes like this one started on this machine, to stay until they are taken or told to leave."""
    import ray

    context = ray.get_runtime_context()
    here: Any = next(node for node in ray.nodes() if node["NodeID"] == context.get_node_id())
    prestart(here, context.get_runtime_env_string(), num, _KEEP_FOR_S)
