"""Workers take processes that stand by with everything imported, from the first on, and none is left at the end."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import psutil
import pytest

from luthier.trainers.fit import train
from tests.chaos.conftest import ConfigAt
from tests.chaos.harness import Strike, kill_one, striking, workers

pytestmark = pytest.mark.usefixtures("ray_session")


def standing_by(file: Path) -> list[psutil.Process]:
    """Processes that no worker has become yet."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.name() == "ray::IDLE" and process.environ().get("LUTHIER_AT_WORK_FILE") == str(file):
                found.append(process)
        except psutil.Error:  # it ended meanwhile
            continue
    return found


@pytest.mark.slow
def test_the_first_workers_are_processes_that_were_started_before_ray_train(
    config_at: ConfigAt, shallow_base_dir: Path, tmp_path: Path
) -> None:
    file = (tmp_path / "run" / "checkpoints" / "at-work").resolve()
    stood_by: set[int] = set()
    at_work: set[int] = set()

    def note() -> None:
        at_work.update(process.pid for process in workers())

    def look() -> None:
        while not at_work:
            stood_by.update(process.pid for process in standing_by(file))
            time.sleep(0.5)

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    cfg = config_at(tmp_path, max_failures=0, num_train_epochs=1)
    with striking(tmp_path / "run", Strike(1, note)):
        train(cfg, base_model_dir=shallow_base_dir, workdir=tmp_path / "run")
    looking.join()
    assert len(at_work) == 2
    assert at_work <= stood_by


@pytest.mark.slow
@pytest.mark.parametrize("spare_workers", [True, False], ids=["kept", "control: none are kept"])
def test_a_worker_that_dies_is_followed_by_a_process_that_stood_by(
    *, spare_workers: bool, config_at: ConfigAt, shallow_base_dir: Path, tmp_path: Path
) -> None:
    file = (tmp_path / "run" / "checkpoints" / "at-work").resolve()
    stood_by: set[int] = set()
    followed: list[int] = []

    def kill_when_ready() -> None:
        deadline = time.monotonic() + 60
        while spare_workers and time.monotonic() < deadline:
            ready = [process for process in standing_by(file) if process.cpu_percent(0.5) < 10]
            if len(ready) == 2 and all(process.memory_info().rss > 250 << 20 for process in ready):
                break
        stood_by.update(process.pid for process in standing_by(file))
        print("MiB that stand by:", [process.memory_info().rss >> 20 for process in standing_by(file)])
        kill_one()

    def note() -> None:
        followed.extend(process.pid for process in workers())

    cfg = config_at(tmp_path, max_failures=1, spare_workers=spare_workers, num_train_epochs=80, save_steps=10)
    first, then = Strike(12, kill_when_ready), Strike(230, note)
    with striking(tmp_path / "run", first, then):
        train(cfg, base_model_dir=shallow_base_dir, workdir=tmp_path / "run")
    print(f"next step {first.next_step_s:.1f} s after the kill")
    assert len(followed) == 2
    assert (set(followed) == stood_by) == spare_workers
    deadline = time.monotonic() + 15
    while standing_by(file) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert standing_by(file) == []
