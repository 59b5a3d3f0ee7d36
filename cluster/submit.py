"""Runs as Ray jobs: submit, follow, stop."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict

import luthier
from luthier.cluster.environment import environment
from luthier.config import RunConfig, config_hash, load_config
from luthier.config.deepspeed_file import DeepspeedFile
from luthier.config.places import absolute
from luthier.errors import ConfigError, ResourceError

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

Verb = Literal["run", "train", "tune", "evaluate", "plan", "data check"]
JobStatus = Literal["PENDING", "RUNNING", "STOPPED", "SUCCEEDED", "FAILED"]

DEFAULT_ADDRESS = "http://127.0.0.1:8265"

# Never sent: what the cluster makes anew, and what no job reads. Patterns of .gitignore; a leading slash means the top
# of what is packed, which may be the luthier package itself, so a registry is told by what lies in it.
EXCLUDES = (
    ".git", ".venv", "/venv", "/runs", "/registry/*/versions", "/registry/*/aliases", ".cache", "__pycache__", "*.pyc",
    ".mypy_cache", ".ruff_cache", ".pytest_cache", "/build", "/dist", "*.egg-info",
)  # fmt: skip

_LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
_WRITING = ("run", "train", "tune", "evaluate")
_SPLITS = ("train", "validation", "test")

_POLL_S = 0.5

_TIMEOUT_S = (3.0, 60.0)
"""Until a connection stands, and from one piece of an answer to the next."""


class Job(BaseModel):
    """One submitted job."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    job_id: str
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


def submit(cfg_path: Path, overrides: Sequence[str], verb: Verb, address: str | None = None) -> str:
    """Send the current directory to a cluster and run a luthier verb there.

    The id is made of the run's name, the verb and the hash of the resolved config: submitting the same again
    while it runs joins the running job; once that has ended, a numbered one starts.

    Args:
        cfg_path: The config, inside the current directory.
        overrides: ``dotted.key=value`` assignments.
        verb: What to run.
        address: ``http://HEAD:8265``; None: ``$RAY_ADDRESS``, or else this machine's port 8265.

    Returns:
        The job's id.

    Raises:
        ConfigError: The config is invalid, names files that would not be sent, or would write to the job's temporary
            directory.
        ResourceError: The cluster does not answer.
    """
    cfg = load_config(cfg_path, overrides)
    root = Path.cwd().resolve()
    relative = _inside(cfg_path, root)
    check_inputs(cfg, root)
    places = output_overrides(cfg, _url(address)) if verb in _WRITING else ()
    client = connect(address)
    job_id = _free_or_running(client, f"{cfg.name}-{verb.replace(' ', '-')}-{config_hash(cfg)[:12]}")
    if _find(client, job_id) is None:
        client.submit_job(
            entrypoint=entrypoint(relative, (*overrides, *places), verb),
            submission_id=job_id,
            runtime_env=runtime_env(cfg, root),
            metadata={"name": cfg.name, "verb": verb, "config_hash": config_hash(cfg)},
        )
    return job_id


def status(job_id: str, address: str | None = None) -> Job:
    """Where a job stands.

    Raises:
        ResourceError: The cluster does not answer, or does not know the job.
    """
    return _known(connect(address), job_id)


def list_jobs(address: str | None = None) -> tuple[Job, ...]:
    """All jobs of the cluster, the newest first.

    Raises:
        ResourceError: The cluster does not answer.
    """
    jobs = [_to_job(details) for details in connect(address).list_jobs() if details.submission_id]
    return tuple(sorted(jobs, key=lambda job: job.started_s or 0.0, reverse=True))


def applications(address: str | None = None) -> list[dict[str, Any]]:
    """What Ray Serve runs on the cluster: of each application name, status, message and deployments, and of those name,
    status, message and the number of replicas in each state.

    Raises:
        ResourceError: The cluster does not answer.
    """
    with _told_as_resource_error(_url(address)):
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


def logs(job_id: str, *, follow: bool = False, address: str | None = None) -> Iterator[str]:
    """A job's output in pieces; with ``follow``, until the job ends.

    Raises:
        ResourceError: The cluster does not answer, or does not know the job.
    """
    client = connect(address)
    _known(client, job_id)
    if not follow:
        yield client.get_job_logs(job_id)
        return
    pieces = client.tail_job_logs(job_id)
    with asyncio.Runner() as runner:
        while (piece := runner.run(_next(pieces))) is not None:
            yield piece


def wait(job_id: str, *, address: str | None = None, timeout_s: float | None = None) -> Job:
    """Wait until a job has ended; ``exit_code`` of the answer is the command's own.

    Raises:
        ResourceError: The cluster does not answer or know the job, or the time is over.
    """
    client = connect(address)
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while not (job := _known(client, job_id)).ended:
        if deadline is not None and time.monotonic() > deadline:
            raise ResourceError(f"job {job_id!r} is still {job.status} after {timeout_s:g} s; it goes on running.")
        time.sleep(_POLL_S)
    return job


def stop(job_id: str, address: str | None = None) -> bool:
    """Ask a job to stop.

    Returns:
        Whether it was running.

    Raises:
        ResourceError: The cluster does not answer, or does not know the job.
    """
    client = connect(address)
    _known(client, job_id)
    return bool(client.stop_job(job_id))


def connect(address: str | None = None) -> JobSubmissionClient:
    """A client of the cluster's job server.

    Raises:
        ResourceError: Nothing answers there, or it asks for a token.
    """
    url = _url(address)
    if "://" not in url:
        raise ResourceError(f"the job server's address {url!r} has no scheme; give it as http://HOST:8265.")
    with _told_as_resource_error(url):
        return _client(url)


def _client(url: str) -> JobSubmissionClient:
    from ray.job_submission import JobSubmissionClient

    class Client(JobSubmissionClient):
        """Ray's own client waits for ever where a host takes connections and says nothing."""

        def _do_request(self, *args: Any, **kwargs: Any) -> Any:
            return super()._do_request(*args, **{"timeout": _TIMEOUT_S, **kwargs})

    return Client(url)


@contextmanager
def _told_as_resource_error(url: str) -> Iterator[None]:
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


def entrypoint(config: Path, overrides: Sequence[str], verb: Verb) -> str:
    """The shell command that the job runs in its working directory."""
    return shlex.join(["python", "-m", "luthier.cli", *verb.split(), config.as_posix(), *overrides])


def runtime_env(cfg: RunConfig, root: Path) -> dict[str, Any]:
    """Code, config, data and environment of the job."""
    env: dict[str, Any] = {"working_dir": str(root), "excludes": list(EXCLUDES), "env_vars": environment(cfg)}
    package = Path(luthier.__file__).resolve().parent
    if package.parent != root:  # else the working directory brings it
        env["py_modules"] = [str(package)]
    return env


def check_inputs(cfg: RunConfig, root: Path) -> None:
    """Refuse data and models that the job would not find.

    Relative paths travel with the directory; absolute ones must lie on storage that the cluster shares.

    Raises:
        ConfigError: Lists each such path.
    """
    named = [(f"datasets[].{split}", getattr(d, split)) for d in cfg.datasets for split in _SPLITS]
    settings = cfg.train.deepspeed
    if isinstance(settings, DeepspeedFile) and (root / settings.file).exists():  # a dumped config brings the content
        named.append(("train.deepspeed", settings.file))
    problems = [f"{key}: {path!r} {why}" for key, path in named if path is not None and (why := _not_sent(path, root))]
    model = cfg.model.model_name_or_path
    is_directory = model.startswith((".", "~")) or (root / model).is_dir()
    if is_directory and (why := _not_sent(model, root, directory=True)):
        problems.append(f"model.model_name_or_path: {model!r} {why}")
    if problems:
        raise ConfigError("\n".join(problems))


def _not_sent(path: str, root: Path, *, directory: bool = False) -> str | None:
    if Path(path).is_absolute():
        return None
    if path.startswith("~"):
        return "is a home directory, which a job does not share; give an absolute path on shared storage."
    resolved = (root / path).resolve()
    if not resolved.is_relative_to(root):
        return f"lies outside {str(root)!r}, which the job gets; submit from a directory that contains it."
    if not resolved.exists():
        return "does not exist; correct the path."
    if resolved.is_dir() and not directory:
        return "is a directory; name a file."
    if not is_sent(resolved, root):
        return (
            "is never sent (luthier's exclusions, .gitignore or .rayignore); move it, or give an absolute path on "
            "shared storage."
        )
    return None


def is_sent(path: Path, root: Path, excludes: Sequence[str] = EXCLUDES) -> bool:
    """Whether Ray packs a path: neither it nor a directory above is excluded. Ray's own packaging is asked.

    Args:
        path: Something below ``root``.
        root: The working directory, or a package of ``py_modules``.
        excludes: Patterns of .gitignore.
    """
    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import _get_excludes, get_excludes_from_ignore_files

    rules = [_get_excludes(root, [*get_runtime_env_default_excludes(), *excludes])]
    place = root
    for part in path.relative_to(root).parts:
        rules.extend(get_excludes_from_ignore_files(place, include_gitignore=True))
        place = place / part
        if any(rule(place) for rule in rules):
            return False
    return True


def output_overrides(cfg: RunConfig, url: str) -> tuple[str, ...]:
    """Assignments that let a job write where a run from here would: a job's own directory is temporary.

    Raises:
        ConfigError: A place to write is relative, and the cluster is not on this machine.
    """
    places = {"storage_path": cfg.storage_path, "registry.uri": cfg.registry.uri}
    relative = {key: place for key, place in places.items() if "://" not in place and not Path(place).is_absolute()}
    if relative and urlsplit(url).hostname not in _LOCAL_HOSTS:
        named = " and ".join(f"{key}={place!r}" for key, place in relative.items())
        raise ConfigError(
            f"{named} would lie in the job's temporary directory on {url}; give an absolute path on storage that the "
            "cluster shares, or for the registry a URI."
        )
    return tuple(f"{key}={json.dumps(absolute(place))}" for key, place in relative.items())


def _url(address: str | None) -> str:
    return address or os.environ.get("RAY_ADDRESS") or DEFAULT_ADDRESS


def _inside(cfg_path: Path, root: Path) -> Path:
    resolved = cfg_path.resolve()
    if not resolved.is_relative_to(root):
        raise ConfigError(f"config {str(cfg_path)!r} lies outside {str(root)!r}; submit from a directory above it.")
    return resolved.relative_to(root)


def _free_or_running(client: JobSubmissionClient, base: str) -> str:
    """The first of base, base-2, base-3, ... that has not ended."""
    number = 1
    while True:
        job_id = base if number == 1 else f"{base}-{number}"
        job = _find(client, job_id)
        if job is None or not job.ended:
            return job_id
        number += 1


def _find(client: JobSubmissionClient, job_id: str) -> Job | None:
    try:
        return _to_job(client.get_job_info(job_id))
    except RuntimeError as error:
        if "404" in str(error) or "does not exist" in str(error):
            return None
        raise ResourceError(f"the cluster does not tell about job {job_id!r}: {error}") from error


def _known(client: JobSubmissionClient, job_id: str) -> Job:
    job = _find(client, job_id)
    if job is None:
        raise ResourceError(f"the cluster knows no job {job_id!r}; list its jobs to see the ids.")
    return job


def _to_job(details: JobDetails) -> Job:
    return Job(
        job_id=details.submission_id or "",
        status=cast(JobStatus, str(details.status.value)),
        message=details.message or "",
        exit_code=details.driver_exit_code,
        started_s=None if details.start_time is None else details.start_time / 1000,
        ended_s=None if details.end_time is None else details.end_time / 1000,
    )


async def _next(pieces: Any) -> str | None:
    return await anext(pieces, None)
