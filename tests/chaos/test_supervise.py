"""A supervised job loses its driver, its head's raylet or its control store, each by SIGKILL, and the run goes on."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from luthier.config import RunConfig, dump_yaml
from luthier.trainers.metrics_stream import FILE_NAME
from tests.chaos.conftest import ConfigAt
from tests.chaos.harness import Outcome, assert_same, last_step
from tests.ray_head import RayHead, ray_head

pytestmark = pytest.mark.slow

KILLED_AFTER = 7
PATIENCE_S = 240.0


def kill_driver(head: RayHead) -> None:
    """The process that runs the verb, not the shell or the Ray worker above it."""
    drivers = [one for one in head.processes("-m luthier.cli train") if one.name().startswith("python")]
    assert drivers
    for driver in drivers:
        driver.kill()


def kill_and_restart(head: RayHead, name: str) -> None:
    """Kill one daemon of the head; what is left of the head falls by itself, and is started again."""
    (daemon,) = head.processes(name)
    daemon.kill()
    head.await_fall()
    head.kill()
    head.start()


def kill_raylet(head: RayHead) -> None:
    kill_and_restart(head, "raylet/raylet")


def kill_gcs(head: RayHead) -> None:
    kill_and_restart(head, "gcs/gcs_server")


def trained_in(cfg: RunConfig) -> Path | None:
    return next(Path(cfg.storage_path).glob("*/train"), None)


def await_step(cfg: RunConfig, step: int, submitting: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while (workdir := trained_in(cfg)) is None or last_step(workdir / FILE_NAME) < step:
        assert submitting.poll() is None and time.monotonic() < deadline, log.read_text()[-4000:]
        time.sleep(0.005)


@pytest.mark.parametrize("strike", [kill_driver, kill_raylet, kill_gcs])
def test_a_supervised_job_that_dies_comes_to_what_it_would_have_come_to(
    strike: object, config_at: ConfigAt, shallow_base_dir: Path, left_alone: dict[str, Outcome], tmp_path: Path
) -> None:
    cfg = config_at(tmp_path)
    described = cfg.model_dump(mode="json")
    described["model"]["model_name_or_path"] = str(shallow_base_dir)
    project = tmp_path / "project"
    project.mkdir()
    (project / "run.yaml").write_text(dump_yaml(RunConfig.model_validate(described)), encoding="utf-8")
    log = tmp_path / "submit.log"
    with ray_head() as head:
        command = head.command("submit", "run.yaml", "--verb", "train", "--supervise")
        with log.open("wb") as stream:
            submitting = subprocess.Popen(command, env=head.environment, cwd=project, stdout=stream, stderr=stream)
        try:
            await_step(cfg, KILLED_AFTER, submitting, log)
            assert callable(strike)
            strike(head)
            assert submitting.wait(timeout=PATIENCE_S) == 0, log.read_text()[-4000:]
        finally:
            if submitting.poll() is None:
                submitting.kill()
        jobs = json.loads(head.luthier("list", "--json").stdout)
    assert [job["status"] for job in jobs] == ["SUCCEEDED", "FAILED"]  # the newest first; a fallen head kept its record
    assert jobs[0]["job_id"] == f"{jobs[1]['job_id']}-2"
    workdir = trained_in(cfg)
    assert workdir is not None
    assert_same(Outcome.of(workdir), left_alone["ddp"])
    assert not psutil.pid_exists(submitting.pid)
