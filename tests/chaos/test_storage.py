"""A full disk: the run ends with a clear error, the checkpoint before it is whole, and the same command goes on."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from luthier.errors import OutputError
from luthier.trainers.checkpoint import CheckpointStore
from luthier.trainers.inprocess import make_job
from luthier.trainers.loop import train_loop
from luthier.trainers.strategies import Worker
from tests.chaos.conftest import ConfigAt

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB; needs the right to mount."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no right to mount a small file system: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.mark.parametrize("async_save", [True, False], ids=["behind the loop", "in the loop"])
def test_a_full_disk_leaves_the_checkpoint_before_it_and_the_run_goes_on_once_there_is_room(
    *, async_save: bool, small_disk: Path, config_at: ConfigAt, shallow_base_dir: Path
) -> None:
    torch.set_num_threads(1)
    cfg = config_at(small_disk, num_workers=1, num_train_epochs=2, save_total_limit=1, async_save=async_save)
    job = make_job(cfg, shallow_base_dir, small_disk / "run")
    job.workdir.mkdir()
    worker = Worker(0, 1, torch.device("cpu"))
    ballast = small_disk / "ballast"

    def fill(metrics: dict[str, float], checkpoint: object) -> None:
        """After the first checkpoint, others take the disk but for half of what a checkpoint needs."""
        if not ballast.exists():
            size = sum(path.stat().st_size for path in store.root.rglob("*") if path.is_file())
            free = int(subprocess.check_output(["df", "--output=avail", "-B1", str(small_disk)]).split()[-1])
            ballast.write_bytes(b"\0" * (free - size // 2))

    store: CheckpointStore = job.store()
    with pytest.raises(OutputError, match=r"the checkpoint of step 4 can't be written .* MiB are free there"):
        train_loop(job, worker, fill)
    newest = store.newest()
    assert newest is not None and newest.step == 2
    ballast.unlink()
    train_loop(replace(job), worker, lambda metrics, checkpoint: None)
    newest = store.newest()
    assert newest is not None and newest.step == 12
