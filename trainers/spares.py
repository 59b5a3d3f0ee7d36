"""Processes that stand by for workers that die: started, with everything imported.

Starting Python and importing torch and transformers takes most of the time between a worker's death and the next step.
Ray keeps no process ready for it: an actor takes over an idle process only if no task has run in it and its runtime
environment is the same (WorkerFitForLease in ray/src/ray/raylet/worker_pool.cc), and idle ones are ended after a second
where all CPUs are in use. So each worker asks the Ray daemon of its machine for one more process like its own, by the
request that Ray has for prestarting, and a setup hook in that process imports what the worker has imported by then.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from luthier.digests import atomic_write_text

log = logging.getLogger(__name__)

_AT_WORK = "LUTHIER_AT_WORK_FILE"
_HOOK = "__RAY_WORKER_PROCESS_SETUP_HOOK_ENV_VAR"
"""How Ray tells a process its hook; the public setting exists for whole jobs only."""

_LOOK_EVERY_S = 2.0
_KEEP_FOR_S = 365 * 24 * 3600
_ASK_FOR_S = 10.0
_asked = threading.Event()
_at_work = threading.Event()


@contextmanager
def standing_by(file: Path | None) -> Iterator[dict[str, str]]:
    """Environment variables for workers that may have spares while the block runs.

    Args:
        file: Where workers note what they have imported, on storage that all see; spares leave when it is gone. None: there
            are to be no spares.
    """
    if file is None:
        yield {}
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    try:
        yield {_AT_WORK: str(file), _HOOK: f"{__name__}.stand_by"}
    finally:
        file.unlink(missing_ok=True)


def stand_by() -> None:
    """Import what the workers have imported, and leave with the run.

    Ray calls it in each new process of the workers' kind; in the first ones there is nothing to follow yet.
    """
    file = Path(os.environ[_AT_WORK])
    threading.Thread(target=_leave_after, args=(file,), daemon=True, name="spare").start()
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


def keep_one(*, note_imports: bool) -> None:
    """Have one more process like this one started on this machine, the first time that a worker calls.

    Args:
        note_imports: Note for all spares what this process has imported: one worker, which imports the most.
    """
    file = Path(os.environ.get(_AT_WORK, ""))
    if _asked.is_set() or not file.is_file():
        return
    _asked.set()
    if note_imports:
        names = [name for name, module in list(sys.modules.items()) if getattr(module, "__spec__", None) is not None]
        atomic_write_text(file, "\n".join(names))
    prestart(1)


def prestart(num: int) -> None:
    """Have processes like this one started on this machine, for actors to come; nobody waits for them.

    Where Ray refuses, a warning says so: the run does without.
    """
    import grpc

    try:
        _ask(num)
    except (grpc.RpcError, OSError) as error:
        log.warning("no process stands by here, so that a restart takes longer: %s", error)


def _ask(num: int) -> None:
    import ray
    from ray._private.grpc_utils import init_grpc_channel
    from ray.core.generated.common_pb2 import Language
    from ray.core.generated.node_manager_pb2 import PrestartWorkersRequest
    from ray.core.generated.node_manager_pb2_grpc import NodeManagerServiceStub
    from ray.core.generated.runtime_environment_pb2 import RuntimeEnvInfo

    here = ray.get_runtime_context()
    daemon = next(node for node in ray.nodes() if node["NodeID"] == here.get_node_id())
    request = PrestartWorkersRequest(
        language=Language.PYTHON,
        job_id=bytes.fromhex(here.get_job_id()),
        runtime_env_info=RuntimeEnvInfo(serialized_runtime_env=here.get_runtime_env_string()),
        keep_alive_duration_secs=_KEEP_FOR_S,
        num_workers=num,
    )
    channel = init_grpc_channel(f"{daemon['NodeManagerAddress']}:{daemon['NodeManagerPort']}")
    with channel:
        NodeManagerServiceStub(channel).PrestartWorkers(request, timeout=_ASK_FOR_S)
