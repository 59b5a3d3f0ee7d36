"""The command itself is killed and given again: to the last bit the run that was left alone."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch

from luthier.config import RunConfig, dump_yaml
from luthier.digests import sha256_file
from luthier.trainers.metrics_stream import FILE_NAME
from tests.chaos.conftest import STRATEGIES, ConfigAt
from tests.chaos.harness import Outcome, assert_same, last_step

KILLED_AFTER = 7
SAVE_STEPS = 2
PATIENCE_S = 240.0


def command_for(cfg: RunConfig, base_model_dir: Path, directory: Path) -> list[str]:
    """The command line of a user whose model is a local directory."""
    described = cfg.model_dump(mode="json")
    described["model"]["model_name_or_path"] = str(base_model_dir)
    described["cluster"]["num_cpus"] = 2
    path = directory / "run.yaml"
    path.write_text(dump_yaml(RunConfig.model_validate(described)), encoding="utf-8")
    return [sys.executable, "-m", "luthier.cli", "train", str(path), "--json"]


def steps_done(cfg: RunConfig) -> int:
    workdir = run_in(cfg)
    return last_step(workdir / FILE_NAME) if workdir else 0


def run_in(cfg: RunConfig) -> Path | None:
    """Where the command trains; None before there is such a place."""
    return next(Path(cfg.storage_path).glob("*/train"), None)


def is_running(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def kill_after(step: int, command: list[str], cfg: RunConfig, log: Path) -> Path:
    """Start the command, SIGKILL its process after a step, and wait until its workers are gone too."""
    with log.open("wb") as stream:
        driver = subprocess.Popen(command, stdout=stream, stderr=stream)
    deadline = time.monotonic() + PATIENCE_S
    while steps_done(cfg) < step:
        assert driver.poll() is None and time.monotonic() < deadline, log.read_text()[-4000:]
        time.sleep(0.005)
    workdir = run_in(cfg)
    assert workdir is not None
    of_session = psutil.Process(driver.pid).children(recursive=True)
    at_work = [process for process in of_session if "Agent" not in process.name()]
    assert any("RayTrainWorker" in " ".join(process.cmdline()) for process in at_work)
    driver.kill()
    killed_at = time.monotonic()
    driver.wait()
    # Nobody ends them: Ray's daemons die with the driver that started them, and workers once they miss their daemon.
    # Ray's two agents take a minute more; they know nothing of the run.
    while left := [process for process in at_work if is_running(process)]:
        assert time.monotonic() - killed_at < 20, left
        time.sleep(0.05)
    print(f"{len(at_work)} processes of the session were gone {time.monotonic() - killed_at:.1f} s after the driver")
    return workdir


def give_again(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr[-4000:]


def leave_alone(workdir: Path) -> None:
    """A rerun finds what the kill left."""


def forget_the_generators(workdir: Path) -> None:
    """Broken on purpose: the newest checkpoint's dropout generators are others, under digests that match."""
    index_path = max(workdir.glob("checkpoints/step-*/checkpoint.json"))
    index = json.loads(index_path.read_text())
    for path in index_path.parent.glob("state/rng-*.pt"):
        torch.save({"cpu": torch.Generator().manual_seed(1).get_state()}, path)
        index["files"][str(path.relative_to(index_path.parent))] = sha256_file(path)
    index_path.write_text(json.dumps(index))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "before_rerun", "is_same"),
    [
        ("ddp", leave_alone, True),
        ("z2", leave_alone, True),
        ("ddp", forget_the_generators, False),
    ],
    ids=["ddp", "z2", "control: generators are forgotten"],
)
def test_a_command_that_was_killed_and_given_again_is_the_run_that_was_left_alone(
    name: str,
    before_rerun: Callable[[Path], None],
    *,
    is_same: bool,
    config_at: ConfigAt,
    shallow_base_dir: Path,
    left_alone: dict[str, Outcome],
    tmp_path: Path,
) -> None:
    cfg = config_at(tmp_path, **STRATEGIES[name])
    command = command_for(cfg, shallow_base_dir, tmp_path)
    workdir = kill_after(KILLED_AFTER, command, cfg, tmp_path / "killed.log")
    done_before = last_step(workdir / FILE_NAME)
    saved = max(int(path.parent.name[5:]) for path in workdir.glob("checkpoints/step-*/checkpoint.json"))
    assert done_before - saved <= SAVE_STEPS + 1  # one save may be under way
    with pytest.raises(AssertionError):
        assert_same(Outcome.of(workdir), left_alone[name])  # it was cut off, indeed
    before_rerun(workdir)
    give_again(command)
    assert run_in(cfg) == workdir
    outcome = Outcome.of(workdir)
    if is_same:
        assert_same(outcome, left_alone[name])
    else:
        with pytest.raises(AssertionError):
            assert_same(outcome, left_alone[name])
