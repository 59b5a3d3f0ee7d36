"""Memory that really runs out in Ray Train's workers: smaller micro-batches where the config allows, else a clear end."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import psutil
import pytest

from luthier.config import RunConfig
from luthier.errors import OutOfMemory
from luthier.trainers.fit import train
from luthier.trainers.inprocess import make_job
from luthier.trainers.sample_log import read_samples
from tests.chaos.conftest import make_config_at
from tests.chaos.harness import workers

pytestmark = [pytest.mark.usefixtures("ray_session"), pytest.mark.slow]

ROWS = 6
"""Of a worker's micro-batch as configured; all rows of an epoch make one step."""

BUDGET_BYTES = 450 << 20
"""What a worker may allocate beyond the loaded model: less than 6 rows need, more than 2 do (which took under 260)."""


@pytest.fixture
def long_rows(small_data: Path, tmp_path: Path) -> Path:
    """The small data with every text repeated to a thousand characters."""
    directory = tmp_path / "data"
    directory.mkdir()
    for name in ("train.jsonl", "validation.jsonl"):
        rows = [json.loads(line) for line in (small_data / name).read_text(encoding="utf-8").splitlines()]
        long = [{**row, "text": ((row["text"] + " ") * 40)[:1000]} for row in rows]
        (directory / name).write_text("".join(json.dumps(row) + "\n" for row in long), encoding="utf-8")
    return directory


def long_config(data: Path, directory: Path, **more: object) -> RunConfig:
    cfg = make_config_at(
        data,
        directory,
        per_device_train_batch_size=ROWS,
        gradient_accumulation_steps=1,
        num_train_epochs=2,
        padding_free=False,  # memory follows the number of rows
        eval_steps=100,
        save_steps=1,
        **more,
    )
    return cfg.model_copy(update={"data": cfg.data.model_copy(update={"max_length": 512})})


def allocated_bytes(pid: int) -> int:
    """What RLIMIT_DATA limits: https://man7.org/linux/man-pages/man2/getrlimit.2.html"""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmData:"))


@contextmanager
def limited(workdir: Path) -> Iterator[list[int]]:
    """Give each worker process no more than :data:`BUDGET_BYTES` from its first step on, by the kernel's limit.

    Yields:
        The processes that were limited.
    """
    done, found = threading.Event(), list[int]()

    def follow() -> None:
        log, mark = workdir / "samples-0.jsonl", 0
        while not done.wait(0.005):
            inode = log.stat().st_ino if log.exists() else 0
            if inode == mark:
                continue
            mark = inode  # a group of workers has loaded its model and begins
            for process in workers():
                ceiling = allocated_bytes(process.pid) + BUDGET_BYTES
                process.rlimit(psutil.RLIMIT_DATA, (ceiling, ceiling))
                found.append(process.pid)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


def test_with_a_smaller_batch_allowed_the_run_goes_on_with_the_same_rows_a_step(
    long_rows: Path, shallow_base_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = long_config(long_rows, tmp_path, min_per_device_train_batch_size=1)
    job = make_job(cfg, shallow_base_dir, tmp_path / "planned")
    plan = job.plan(job.train_rows(), 2)
    with limited(tmp_path / "run") as found:
        result = train(cfg, base_model_dir=shallow_base_dir, workdir=tmp_path / "run")
    groups = len(found) // 2
    assert groups >= 2  # of two workers, under the same limit; all but the last ran out
    most = math.ceil(ROWS / 2 ** (groups - 1))
    assert "a worker ran out of memory" in caplog.text
    assert f"goes on with at most {most} rows per worker and micro-step" in caplog.text
    samples = read_samples(tmp_path / "run")
    assert {len(micro) for step in samples.values() for worker in step for micro in worker} == {most}
    rows = job.train_rows()
    for step, at_work in samples.items():
        planned = chain(*(chain(*plan.micro_batches(step - 1, rank)) for rank in range(2)))
        assert sorted(chain(*chain(*at_work))) == sorted(rows[row].row_id for row in planned)
    assert [row["step"] for row in result.metrics] == [1, 2]


def test_without_that_the_run_ends_and_says_what_ran_out(
    long_rows: Path, shallow_base_dir: Path, tmp_path: Path
) -> None:
    cfg = long_config(long_rows, tmp_path, max_failures=3)
    with (
        limited(tmp_path / "run") as found,
        pytest.raises(OutOfMemory, match=r"ran out of memory .* lower train\.per_device_train_batch_size"),
    ):
        train(cfg, base_model_dir=shallow_base_dir, workdir=tmp_path / "run")
    assert len(found) == 2  # nobody tried again what would fail again


def test_control_without_a_limit_the_batch_fits(long_rows: Path, shallow_base_dir: Path, tmp_path: Path) -> None:
    cfg = long_config(long_rows, tmp_path)
    train(cfg, base_model_dir=shallow_base_dir, workdir=tmp_path / "run")
    samples = read_samples(tmp_path / "run")
    assert [len(micro) for step in samples.values() for worker in step for micro in worker] == [ROWS] * 4
