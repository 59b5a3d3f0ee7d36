"""A job that dies is submitted once more, and its run goes on from the last complete checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from luthier.cluster.following import follow, settled
from luthier.cluster.jobs import Job, connect, url_of
from luthier.cluster.submission import Submission, launch
from luthier.errors import ResourceError

_SIGKILL = 9


def is_death(job: Job | None) -> bool:
    """Whether a job was ended from outside, rather than by its own doing or its user's.

    A driver that was killed has a signal for an exit code; where the head died, Ray has no exit code to tell, or knows
    the job no more.

    Args:
        job: An ended job; None: the cluster came back without it.
    """
    if job is None:
        return True
    if job.status != "FAILED":
        return False
    return job.exit_code is None or job.exit_code < 0 or job.exit_code == 128 + _SIGKILL


def attend(
    job_id: str,
    show: Callable[[Iterator[str]], None],
    say: Callable[[str], None],
    *,
    submission: Submission | None = None,
    address: str | None = None,
) -> Job:
    """Follow a job to its end; one that dies is submitted once more.

    Args:
        job_id: The job.
        show: Shows a log as it comes.
        say: Tells of a resubmission.
        submission: What to submit again; None: nothing is.
        address: Of the job server.

    Raises:
        ResourceError: The cluster is away for long, or has lost the job and may not be given it again.
    """
    job = _seen_to_its_end(job_id, show, address)
    if submission is not None and is_death(job):
        how = "is not known to the cluster any more" if job is None else f"died ({job.message})"
        say(f"{job_id} {how}; submitting it once more, to go on from its last complete checkpoint")
        job_id = launch(connect(address), submission)
        say(f"submitted {job_id}")
        job = _seen_to_its_end(job_id, show, address)
    if job is None:
        raise ResourceError(
            f"the cluster at {url_of(address)} came back without job {job_id!r}: its head keeps no records. Submit it "
            "again, and start the head with persistent storage (luthier cluster up does)."
        )
    return job


def _seen_to_its_end(job_id: str, show: Callable[[Iterator[str]], None], address: str | None) -> Job | None:
    show(follow(job_id, address))
    return settled(job_id, address)
