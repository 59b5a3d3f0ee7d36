"""The process that holds a head up: it starts it again, on what it had stored, when it dies.

Run as ``python -m luthier.cluster.local.keeper DIRECTORY``.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from pathlib import Path
from threading import Thread
from types import FrameType

from luthier.cluster.local.asking import settle_jobs
from luthier.cluster.local.head import adopt_orphans, end_descendants, start
from luthier.cluster.local.restarts import Restarts
from luthier.cluster.local.settings import Keeper, Record, head_log, read_record, write_record

_PAUSE_S = 1.0

log = logging.getLogger("luthier.cluster")


class _Stopped(Exception):
    """This process was told to end."""


def keep(directory: Path) -> int:
    """Hold the head of a prepared directory up until this process is told to stop.

    Returns:
        Exit code: 0 stopped, 1 the head failed too often.
    """
    record = read_record(directory)
    if record is None:
        raise SystemExit(f"{directory}: no cluster was prepared here; start one: luthier cluster up.")
    adopt_orphans()
    write_record(directory, record.model_copy(update={"keeper": _myself()}))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    try:
        return _keep(directory, record, Restarts())
    except _Stopped:
        log.info("told to stop")
        return 0
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        end_descendants()
        write_record(directory, record.model_copy(update={"keeper": None}))
        log.info("the head has ended")


def is_kept(record: Record) -> bool:
    """Whether the process that the record names still holds the head up."""
    import psutil

    if record.keeper is None:
        return False
    try:
        process = psutil.Process(record.keeper.pid)
        same = abs(process.create_time() - record.keeper.started_at) < 1.0
        return bool(same and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _keep(directory: Path, record: Record, restarts: Restarts) -> int:
    with head_log(directory).open("ab") as output:
        while True:
            head = start(directory, record, output)
            log.info("head started: process %d, %s", head.pid, record.settings.dashboard_url)
            Thread(target=settle_jobs, args=(record,), daemon=True).start()
            code = _await(head.pid)
            log.warning("the head ended by itself (%s); its output: %s", _told(code), head_log(directory))
            end_descendants()
            if not restarts.allowed(time.monotonic()):
                log.error(
                    "giving up: the head ended %d times within %.0f min. Its state is kept; see %s, then: luthier cluster up",
                    restarts.limit + 1,
                    restarts.window_s / 60,
                    head_log(directory),
                )
                return 1
            time.sleep(_PAUSE_S)


def _await(pid: int) -> int:
    """Exit code of a child, once it has ended; adopted processes that end meanwhile are buried."""
    while True:
        ended, status = os.waitpid(-1, 0)
        if ended == pid:
            return os.waitstatus_to_exitcode(status)


def _told(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _stop(number: int, frame: FrameType | None) -> None:
    raise _Stopped


def _myself() -> Keeper:
    import psutil

    return Keeper(pid=os.getpid(), started_at=psutil.Process().create_time())


if __name__ == "__main__":
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    sys.exit(keep(Path(sys.argv[1])))
