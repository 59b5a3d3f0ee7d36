"""A job's output as it comes, whatever happens to the connection."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

from luthier.cluster.jobs import Job, connect, find, known, told_as_resource_error, url_of
from luthier.errors import ResourceError

SILENCE_S = 60.0
"""After so long without a word the log is asked for anew: a connection that broke in silence looks like a quiet job."""

PATIENCE_S = 600.0
"""How long a cluster may be away."""

_PAUSE_S = 1.0

_TRIES_AFTER_END = 3
"""The log of a job whose machine fell went with it."""


def follow(job: str, address: str | None = None, *, patience_s: float = PATIENCE_S) -> Iterator[str]:
    """What a job prints, in pieces, until it has ended; each character once.

    A connection that drops is made again, and what was seen already is left out. It ends too where the cluster comes
    back from a fall without knowing the job.

    Args:
        job: Its id, or the name of its run.
        address: Of the job server.
        patience_s: How long the cluster may be away.

    Raises:
        ResourceError: The cluster does not know the job, or is away for longer.
    """
    job_id = known(connect(address), job).job_id
    seen, broken_after_end = 0, 0
    while True:
        is_whole = True
        try:
            for piece in _unseen(job_id, address, seen):
                seen += len(piece)
                yield piece
        except ResourceError:
            is_whole = False
            time.sleep(_PAUSE_S)
        found = _found(job_id, address, patience_s)
        if found is None:
            return
        if found.ended:
            broken_after_end += 1
            if is_whole or broken_after_end >= _TRIES_AFTER_END:
                return


def settled(job_id: str, address: str | None = None, *, patience_s: float = PATIENCE_S) -> Job | None:
    """Where a job ended, once the cluster is there to tell; None: it came back and knows the job no more.

    Raises:
        ResourceError: The cluster is away for longer than ``patience_s``.
    """
    while (job := _found(job_id, address, patience_s)) is not None and not job.ended:
        time.sleep(_PAUSE_S)
    return job


def _found(job_id: str, address: str | None, patience_s: float) -> Job | None:
    """The job, as soon as the cluster is there to tell; None: it does not know it.

    Raises:
        ResourceError: The cluster is away for longer.
    """
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return find(connect(address), job_id)
        except ResourceError as error:
            if time.monotonic() > deadline:
                raise _lost(job_id, url_of(address), patience_s) from error
        time.sleep(_PAUSE_S)


def _unseen(job_id: str, address: str | None, seen: int) -> Iterator[str]:
    """One connection's worth of a log, without its first ``seen`` characters.

    Raises:
        ResourceError: The connection broke.
    """
    with told_as_resource_error(url_of(address)), asyncio.Runner() as runner:
        pieces = connect(address).tail_job_logs(job_id)
        while (piece := runner.run(_next(pieces))) is not None:
            new, seen = piece[seen:], max(0, seen - len(piece))
            if new:
                yield new


async def _next(pieces: AsyncIterator[str]) -> str | None:
    """The next piece; None at the end, and where nothing came for long."""
    import aiohttp

    try:
        return await asyncio.wait_for(anext(pieces, None), SILENCE_S)
    except TimeoutError:
        return None
    except aiohttp.ClientError as error:
        raise ConnectionError(str(error)) from error


def _lost(job_id: str, url: str, patience_s: float) -> ResourceError:
    return ResourceError(
        f"the cluster at {url} has not answered for {patience_s:g} s; job {job_id!r} goes on if its head lives. Follow "
        f"it again with: luthier logs -f {job_id} --address {url}"
    )
