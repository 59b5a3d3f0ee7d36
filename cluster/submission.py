"""A run as a Ray job: packed, named by its config, and handed to the cluster."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

from luthier.cluster.environment import environment
from luthier.cluster.jobs import Job, find
from luthier.cluster.package import Package, pack
from luthier.cluster.sending import check_inputs, output_overrides
from luthier.config import RunConfig, config_hash, load_config
from luthier.errors import ConfigError, ResourceError
from luthier.events import EVENTS_ENV

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

Verb = Literal["run", "train", "tune", "evaluate"]


class Submission(BaseModel):
    """What the cluster is handed; the same one can be launched again under another id."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_id: str
    """The run's name, the verb and the resolved config's hash; the job's id where no ended job has it already."""
    name: str
    verb: str
    entrypoint: str
    """Shell command that the job runs in its working directory."""
    env_vars: dict[str, str]
    package: Package
    metadata: dict[str, str]


def prepare(cfg_path: Path, overrides: Sequence[str], verb: Verb, url: str, scratch: Path) -> Submission:
    """Check and pack the current directory for a run; the cluster is not spoken to.

    Args:
        cfg_path: The config, inside the current directory.
        overrides: ``dotted.key=value`` assignments.
        verb: What to run.
        url: Of the job server.
        scratch: Directory where the archive is made.

    Raises:
        ConfigError: The config is invalid, names files that would not be sent, would write to the job's temporary
            directory, or the directory is too large to send.
    """
    cfg = load_config(cfg_path, overrides)
    root = Path.cwd().resolve()
    relative = _inside(cfg_path, root)
    check_inputs(cfg, root)
    places = output_overrides(cfg, url)
    return Submission(
        base_id=base_id(cfg, verb),
        name=cfg.name,
        verb=verb,
        entrypoint=entrypoint(relative, (*overrides, *places), verb),
        env_vars={**environment(cfg), EVENTS_ENV: "1"},
        package=pack(root, scratch),
        metadata={"name": cfg.name, "verb": verb, "config_hash": config_hash(cfg)},
    )


def base_id(cfg: RunConfig, verb: str) -> str:
    """The id of the first job of a resolved config."""
    return f"{cfg.name}-{verb}-{config_hash(cfg)[:12]}"


def entrypoint(config: Path, overrides: Sequence[str], verb: str) -> str:
    """The shell command that the job runs in its working directory."""
    return shlex.join(["python", "-m", "luthier.cli", verb, config.as_posix(), *overrides])


def _inside(cfg_path: Path, root: Path) -> Path:
    resolved = cfg_path.resolve()
    if not resolved.is_relative_to(root):
        raise ConfigError(f"config {str(cfg_path)!r} lies outside {str(root)!r}; submit from a directory above it.")
    return resolved.relative_to(root)


def running(client: JobSubmissionClient, first_id: str) -> Job | None:
    """The job of a submission that has not ended, if there is one."""
    return next((job for job in _jobs_of(client, first_id) if not job.ended), None)


def launch(client: JobSubmissionClient, submission: Submission) -> str:
    """Hand a submission to the cluster, under the first id of ``base``, ``base-2``, ``base-3``, ... that is free.

    Returns:
        The job's id.

    Raises:
        ResourceError: The cluster does not take it.
    """
    jobs = _jobs_of(client, submission.base_id)
    job_id = _numbered(submission.base_id, len(jobs) + 1)
    try:
        client.submit_job(
            entrypoint=submission.entrypoint,
            submission_id=job_id,
            runtime_env={"working_dir": submission.package.path, "env_vars": submission.env_vars},
            metadata=submission.metadata,
        )
    except (RuntimeError, OSError, ValueError) as error:
        if find(client, job_id) is not None:  # somebody submitted the same at the same moment: that job is joined
            return job_id
        raise ResourceError(f"the cluster does not take job {job_id!r}: {error}") from error
    return job_id


def _jobs_of(client: JobSubmissionClient, first_id: str) -> list[Job]:
    jobs: list[Job] = []
    while (job := find(client, _numbered(first_id, len(jobs) + 1))) is not None:
        jobs.append(job)
    return jobs


def _numbered(first_id: str, number: int) -> str:
    return first_id if number == 1 else f"{first_id}-{number}"
