"""Jobs that a Ray cluster has: find them, read what they print, wait for them, stop them."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import BaseModel, ConfigDict

from luthier.errors import ResourceError

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

JobStatus = Literal["PENDING", "RUNNING", "STOPPED", "SUCCEEDED", "FAILED"]

DEFAULT_ADDRESS = "http://127.0.0.1:8265"

_POLL_S = 0.5

_TIMEOUT_S = (3.0, 60.0)
"""Until a connection stands, and from one piece of an answer to the next."""


class Job(BaseModel):
    """One submitted job."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    job_id: str
    name: str | None
    """Of the run; None: the job is not luthier's."""
    status: JobStatus
    message: str
    exit_code: int | None
    """The command's own, once it has ended."""
    started_s: float | None
    """Unix time."""
    ended_s: float | None
    """Unix time."""

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.status in ("STOPPED", "SUCCEEDED", "FAILED")

    @property
    def shell_exit_code(self) -> int:
        """The command's exit code as a shell tells it: 128 and the signal's number where a signal ended it; 1 where the
        command did not come to an end of its own."""
        if self.exit_code is None:
            return 0 if self.status == "SUCCEEDED" else 1
        return self.exit_code if self.exit_code >= 0 else 128 - self.exit_code


def status(job: str, address: str | None = None) -> Job:
    """Where a job stands.

    Args:
        job: Its id, or the name of its run, which is the newest job of that name.
        address: See :func:`connect`.

    Raises:
        ResourceError: The cluster does not answer, or does not know the job.
    """
    return known(connect(address), job)


def list_jobs(address: str | None = None) -> tuple[Job, ...]:
    """All jobs of the cluster, the newest first.

    Raises:
        ResourceError: The cluster does not answer.
    """
    return _all_jobs(connect(address))


def logs(job: str, address: str | None = None) -> str:
    """What a job has printed so far.

    Raises:
        ResourceError: The cluster does not answer, or does not know the job.
    """
    client = connect(address)
    job_id = known(client, job).job_id
    with told_as_resource_error(url_of(address)):
        return str(client.get_job_logs(job_id))


def wait(job: str, *, address: str | None = None, timeout_s: float | None = None) -> Job:
    """Wait until a job has ended; ``exit_code`` of the answer is the command's own.

    Raises:
        ResourceError: The cluster does not answer or know the job, or the time is over.
    """
    client = connect(address)
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while not (found := known(client, job)).ended:
        if deadline is not None and time.monotonic() > deadline:
            raise ResourceError(
                f"job {found.job_id!r} is still {found.status} after {timeout_s:g} s; it goes on running."
            )
        time.sleep(_POLL_S)
    return found


def stop(job: str, address: str | None = None) -> bool:
    """Ask a job to stop.

    Returns:
        Whether it was running.

    Raises:
        ResourceError: The cluster does not answer, or does not know the job.
    """
    client = connect(address)
    return bool(client.stop_job(known(client, job).job_id))


def applications(address: str | None = None) -> list[dict[str, Any]]:
    """What Ray Serve runs on the cluster: of each application name, status, message and deployments, and of those name,
    status, message and the number of replicas in each state.

    Raises:
        ResourceError: The cluster does not answer.
    """
    with told_as_resource_error(url_of(address)):
        reply = connect(address)._do_request("GET", "/api/serve/applications/")
    found = reply.json().get("applications", {}) if reply.status_code == 200 else {}
    return [
        {
            "name": name,
            "status": one["status"],
            "message": one["message"],
            "deployments": [_deployment(*each) for each in one["deployments"].items()],
        }
        for name, one in found.items()
    ]


def _deployment(name: str, told: Mapping[str, Any]) -> dict[str, Any]:
    states = Counter(replica["state"] for replica in told["replicas"])
    return {"deployment": name, "status": told["status"], "message": told["message"], "replicas": dict(states)}


def url_of(address: str | None) -> str:
    """The address that is meant: the given one, ``$RAY_ADDRESS``, or this machine's port 8265."""
    return address or os.environ.get("RAY_ADDRESS") or DEFAULT_ADDRESS


def connect(address: str | None = None) -> JobSubmissionClient:
    """A client of the cluster's job server.

    Args:
        address: ``http://HEAD:8265``; None: ``$RAY_ADDRESS``, or else this machine's port 8265.

    Raises:
        ResourceError: Nothing answers there, or it asks for a token.
    """
    url = url_of(address)
    if "://" not in url:
        raise ResourceError(f"the job server's address {url!r} has no scheme; give it as http://HOST:8265.")
    with told_as_resource_error(url):
        return _client(url)


def _client(url: str) -> JobSubmissionClient:
    from ray.job_submission import JobSubmissionClient

    # It would tell of each upload and each end of a log, between the lines of that log.
    for module in (JobSubmissionClient.__module__, JobSubmissionClient.__base__.__module__):
        logging.getLogger(module).setLevel(logging.WARNING)

    class Client(JobSubmissionClient):
        """Ray's own client waits for ever where a host takes connections and says nothing."""

        def _do_request(self, *args: Any, **kwargs: Any) -> Any:
            return super()._do_request(*args, **{"timeout": _TIMEOUT_S, **kwargs})

    return Client(url)


@contextmanager
def told_as_resource_error(url: str) -> Iterator[None]:
    """A block that speaks to a cluster: its errors become one of ours, with the remedy."""
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        raise ResourceError(
            f"the Ray head at {url} asks for a token that was not sent or is not its own; set "
            "RAY_AUTH_MODE=token and, where the token does not lie in ~/.ray/auth_token, RAY_AUTH_TOKEN_PATH."
        ) from error
    except (ConnectionError, RuntimeError, OSError) as error:
        raise ResourceError(f"no Ray job server answers at {url}; check --address and that the head runs.") from error


def find(client: JobSubmissionClient, job_id: str) -> Job | None:
    """The job of an id; None where the cluster has none.

    Raises:
        ResourceError: The cluster does not answer as it should.
    """
    try:
        details = client.get_job_info(job_id)
        _tell_of_fallen_head(client, [details])
        return _to_job(details)
    except (RuntimeError, OSError) as error:
        if "does not exist" in str(error):  # a head that is starting has a 404 of other words for every path
            return None
        raise ResourceError(f"the cluster does not tell about job {job_id!r}: {error}") from error


def known(client: JobSubmissionClient, job: str) -> Job:
    """The job of an id, or else the newest of a run's name.

    Raises:
        ResourceError: There is none.
    """
    found = find(client, job) or next((one for one in _all_jobs(client) if one.name == job), None)
    if found is None:
        raise ResourceError(f"the cluster knows no job {job!r}; see its jobs with: luthier list")
    return found


def _all_jobs(client: JobSubmissionClient) -> tuple[Job, ...]:
    details = [one for one in client.list_jobs() if one.submission_id]
    _tell_of_fallen_head(client, details)
    found = [_to_job(one) for one in details]
    return tuple(sorted(found, key=lambda job: job.started_s or 0.0, reverse=True))


def _tell_of_fallen_head(client: JobSubmissionClient, jobs: Sequence[JobDetails]) -> None:
    """Have a new head settle what ran on the one before it.

    A head that comes back on stored records has those jobs as running. It looks after them only once a request reaches
    its agent, and of the few that do, asking to stop a job that nothing runs any more is the one without an effect.
    """
    at_work = {one.driver_node_id: one.submission_id for one in jobs if not one.status.is_terminal()}
    if not any(at_work):
        return
    reply = client._do_request("GET", "/nodes?view=summary")
    nodes = [one["raylet"] for one in reply.json()["data"]["summary"]] if reply.status_code == 200 else []
    for node in nodes:
        if node.get("state") == "DEAD" and (job_id := at_work.get(node.get("nodeId"))):
            client.stop_job(job_id)


def _to_job(details: JobDetails) -> Job:
    return Job(
        job_id=details.submission_id or "",
        name=(details.metadata or {}).get("name"),
        status=cast(JobStatus, str(details.status.value)),
        message=details.message or "",
        exit_code=details.driver_exit_code,
        started_s=None if details.start_time is None else details.start_time / 1000,
        ended_s=None if details.end_time is None else details.end_time / 1000,
    )
