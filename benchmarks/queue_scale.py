"""What jobs that wait in a team's queue cost: 1, 10 and 100 of them behind one that holds the cluster.

A head and a queue are started once. In each round the queue is filled to each depth, the depths in the opposite order from
round to round; at each depth jobs are submitted one by one and taken out again, and the memory of both is read. At the end
a few jobs are handed to Ray directly, where each waits as a process of its own.

    submit          seconds of a submission, 95th percentile, most waiting / one (lower is better)
    queued_job_mb   megabytes of queue and head per waiting job
    started_job_mb  megabytes of the head per job that was started and waits there instead
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.rounds import Found, figures_of_rounds, medians_of

from luthier.cluster.queue import client
from tests.queue_process import QueueProcess
from tests.ray_head import RayHead, ray_head

MB = 1e6
STARTED = 4
SETTLE_S = 2.0

Told = dict[str, float]


def main() -> None:
    """Measure, print a table, and the figures as JSON on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 10, 100], help="how many wait")
    parser.add_argument("--rounds", type=int, default=3, help="times that each depth is looked at")
    parser.add_argument("--submissions", type=int, default=20, help="timed ones at each depth")
    asked = parser.parse_args()
    found: Found = {depth: [] for depth in asked.jobs}
    with ray_head(num_cpus=1) as head, tempfile.TemporaryDirectory(prefix="queue-") as directory:
        os.environ.update({key: value for key, value in head.environment.items() if key.startswith("RAY_AUTH_")})
        queue = QueueProcess(head, Path(directory), "teams: {team: {}}")
        queue.start()
        try:
            queue.put("holder", "import time; time.sleep(3600)", num_cpus=1.0)
            queue.until("holder", lambda ticket: ticket.state == "running")
            for number in range(asked.rounds):
                for depth in asked.jobs[:: -1 if number % 2 else 1]:
                    told = look_at(queue, head, depth, f"r{number}d{depth}", asked.submissions)
                    found[depth].append(told)
                    print(
                        f"{depth:4} wait: " + "  ".join(f"{key} {value:.2f}" for key, value in told.items()), flush=True
                    )
            started_mb = started_jobs(head)
        finally:
            queue.kill()
    print(f"a job that was started and waits takes {started_mb:.1f} MB")
    print(json.dumps(figures_of(found, started_mb)))


def look_at(queue: QueueProcess, head: RayHead, depth: int, prefix: str, submissions: int) -> Told:
    """Fill the queue to a depth, submit, read the memory, and empty it."""
    names = [f"{prefix}-{number}" for number in range(depth)]
    for name in names:
        queue.put(name, num_cpus=1.0)
    time.sleep(SETTLE_S)
    memory = {"queue_mb": held_mb(queue.pid), "head_mb": head_mb(head)}
    seconds = []
    for number in range(submissions):
        name = f"{prefix}-timed-{number}"
        began = time.perf_counter()
        queue.put(name, num_cpus=1.0)
        seconds.append(time.perf_counter() - began)
        client.cancel(queue.url, name, token=queue.token)
    if sum(ticket.state == "queued" for ticket in client.tickets(queue.url, token=queue.token)) != depth:
        sys.exit(f"the queue did not hold {depth} jobs")
    for name in names:
        client.cancel(queue.url, name, token=queue.token)
    ordered = sorted(seconds)
    latency = {"median_ms": 1e3 * statistics.median(seconds), "p95_ms": 1e3 * ordered[int(0.95 * (len(ordered) - 1))]}
    return {**latency, **memory}


def started_jobs(head: RayHead) -> float:
    """Megabytes of the head per job that it was handed and that waits."""
    from luthier.cluster.jobs import status

    before = head_mb(head)
    ids = [submit(head, "import time; time.sleep(600)") for _ in range(STARTED)]
    while any(status(job, head.address).status != "RUNNING" for job in ids):
        time.sleep(0.5)
    time.sleep(SETTLE_S)
    return (head_mb(head) - before) / STARTED


def submit(head: RayHead, code: str) -> str:
    """Hand a line of Python to the head itself."""
    from luthier.cluster.jobs import connect

    return str(connect(head.address).submit_job(entrypoint=f'python -c "{code}"'))


def head_mb(head: RayHead) -> float:
    """Megabytes that only the head's processes hold, its jobs included."""
    return sum(held_mb(process.pid) for process in head.processes(""))


def held_mb(pid: int) -> float:
    """Megabytes that only one process holds; none where it has gone meanwhile."""
    try:
        return float(psutil.Process(pid).memory_full_info().uss) / MB
    except psutil.NoSuchProcess:
        return 0.0


def figures_of(found: Found, started_mb: float) -> list[dict[str, Any]]:
    """One object for each figure; low and high are the extremes of the rounds."""
    least, most = min(found), max(found)
    pairs = list(zip(found[least], found[most], strict=True))
    figures = {
        "submit": [many["p95_ms"] / one["p95_ms"] for one, many in pairs],
        "queued_job_mb": [
            sum(many[key] - one[key] for key in ("queue_mb", "head_mb")) / (most - least) for one, many in pairs
        ],
        "started_job_mb": [started_mb],
    }
    settings = {"rounds": len(pairs), "started_jobs": STARTED, "medians_by_waiting_jobs": medians_of(found, 2)}
    return figures_of_rounds(figures, settings)


if __name__ == "__main__":
    main()
