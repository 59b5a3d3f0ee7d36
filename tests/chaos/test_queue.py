"""A head that dies and comes back while a team's queue waits before it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.queue_process import QueueProcess
from tests.ray_head import ray_head

pytestmark = [pytest.mark.chaos, pytest.mark.slow]


def test_jobs_outlive_the_head(tmp_path: Path) -> None:
    ran, alone = tmp_path / "ran", tmp_path / "alone"
    first_time = f"import pathlib, time; p = pathlib.Path({str(ran)!r}); again = p.exists(); p.touch()"
    with ray_head() as head:
        queue = QueueProcess(head, tmp_path, "teams: {team: {}}")
        queue.start()
        try:
            queue.put("supervised", f"{first_time}; time.sleep(0 if again else 600)", num_cpus=1.0, supervise=True)
            queue.put(
                "alone", f"import pathlib, time; pathlib.Path({str(alone)!r}).touch(); time.sleep(600)", num_cpus=1.0
            )
            queue.until("supervised", lambda _: ran.exists() and alone.exists())
            queue.put("waiting")
            head.kill()
            queue.put("meanwhile")  # is taken although nobody can be asked
            assert queue.get("meanwhile").state == "queued"
            head.start()
            for name in ("supervised", "waiting", "meanwhile"):
                assert queue.until(name, lambda one: one.is_over).status == "SUCCEEDED", name
            assert [one.status for one in queue.get("supervised").attempts] == ["FAILED", "SUCCEEDED"]
            assert [one.status for one in queue.get("alone").attempts] == ["FAILED"]
        finally:
            queue.kill()
