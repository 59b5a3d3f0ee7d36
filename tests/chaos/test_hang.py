"""A worker that no longer answers is found within ``train.hang_timeout_s``."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import psutil
import pytest

from luthier.trainers.fit import train
from tests.chaos.conftest import ConfigAt
from tests.chaos.harness import Strike, striking, workers

pytestmark = [pytest.mark.usefixtures("ray_session"), pytest.mark.slow]


@pytest.mark.parametrize(
    ("hang_timeout_s", "is_found"),
    [(20.0, True), (600.0, False)],
    ids=["bounded", "control: a bound beyond the test's"],
)
def test_a_stopped_worker_is_replaced_within_the_bound(
    hang_timeout_s: float, *, is_found: bool, config_at: ConfigAt, shallow_base_dir: Path, tmp_path: Path
) -> None:
    stopped: list[psutil.Process] = []
    gone_after_s: list[float] = []

    def stop_one() -> None:
        stopped.append(workers()[0])
        stopped[0].send_signal(signal.SIGSTOP)
        began = time.monotonic()
        try:
            stopped[0].wait(60)
            gone_after_s.append(time.monotonic() - began)
        except psutil.TimeoutExpired:
            stopped[0].send_signal(signal.SIGCONT)

    cfg = config_at(tmp_path, max_failures=1, hang_timeout_s=hang_timeout_s)
    with striking(tmp_path / "run", Strike(4, stop_one)):
        result = train(cfg, base_model_dir=shallow_base_dir, workdir=tmp_path / "run")
    assert [row["step"] for row in result.metrics] == list(range(1, 16))
    assert bool(gone_after_s) == is_found
    if is_found:
        print(f"found and killed after {gone_after_s[0]:.1f} s")
        assert gone_after_s[0] < hang_timeout_s + 15
