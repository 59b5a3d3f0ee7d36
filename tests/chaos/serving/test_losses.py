"""Parts of the endpoint die, clients leave, time runs out: what a client sees of it is never taken for an answer."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest
import ray

from tests.chaos.serving.conftest import MODEL, Harmed, replica_processes, replicas
from tests.chaos.serving.test_autoscaling import wait_for
from tests.integration.serving.conftest import KEY

pytestmark = pytest.mark.slow

HEADERS = {"authorization": f"Bearer {KEY}"}
LONG = {"model": MODEL, "messages": [{"role": "user", "content": "a"}], "max_tokens": 450, "ignore_eos": True}


def computes(process: int) -> bool:
    """Whether a replica's engine is at work."""
    engine = psutil.Process(process).children(recursive=True)
    before = sum(sum(one.cpu_times()[:2]) for one in engine)
    time.sleep(0.3)
    return sum(sum(one.cpu_times()[:2]) for one in engine) - before > 0.1


def test_clients_that_leave_free_their_places_at_once(harmed: Harmed) -> None:
    url = f"{harmed.endpoint.base_url}/chat/completions"

    def begin_and_leave(_: int) -> None:
        with httpx.stream("POST", url, json={**LONG, "stream": True}, headers=HEADERS, timeout=60) as reply:
            next(reply.iter_lines())

    def seconds(body: dict[str, object]) -> float:
        began = time.monotonic()
        assert httpx.post(url, json=body, headers=HEADERS, timeout=120).status_code == 200
        return time.monotonic() - began

    alone_s = seconds(LONG)
    with ThreadPoolExecutor(4) as pool:  # as many as the engine decodes together
        list(pool.map(begin_and_leave, range(4)))
    assert (
        seconds({**LONG, "max_tokens": 1}) < alone_s / 4
    )  # a place that any of them held would take longer than alone_s


def test_a_request_that_takes_too_long_is_ended_and_told(harmed: Harmed) -> None:
    harmed.roll_out(request_timeout_s=1.5)
    url = f"{harmed.endpoint.base_url}/chat/completions"
    whole = httpx.post(url, json={**LONG, "n": 4}, headers=HEADERS, timeout=60)
    assert (whole.status_code, whole.json()["error"]["code"]) == (408, "timeout")
    with httpx.stream("POST", url, json={**LONG, "n": 4, "stream": True}, headers=HEADERS, timeout=60) as reply:
        events = [line for line in reply.iter_lines() if line]
    assert '"timeout"' in events[-1]
    assert "data: [DONE]" not in events
    harmed.roll_out()


def test_a_killed_replica_harms_its_own_requests_alone(harmed: Harmed) -> None:
    harmed.roll_out(num_replicas=2)
    with harmed.load(concurrency=4, max_tokens=60) as ledger:
        time.sleep(3)
        process = replica_processes(f"engine-{MODEL}")[0]
        wait_for(lambda: computes(process), 60)  # it may have been given none of the first requests
        killed = time.monotonic()
        os.kill(process, signal.SIGKILL)
        time.sleep(5)
        after = time.monotonic()
        time.sleep(5)
        wait_for(lambda: len(replicas(f"engine-{MODEL}")) == 2, 180)
    ledger.require_honest()
    lost = [entry for entry in ledger.entries if entry.outcome != "whole"]
    assert 0 < len(lost) <= 4
    assert all(killed <= entry.ended <= after for entry in lost)
    harmed.roll_out()


def test_a_killed_ingress_comes_back(harmed: Harmed) -> None:
    with harmed.load(concurrency=2) as ledger:
        time.sleep(2)
        os.kill(replica_processes("ingress")[0], signal.SIGKILL)
        time.sleep(1)
        wait_for(lambda: len(replicas("ingress")) == 1, 60)
        recovered = time.monotonic()
        wait_for(lambda: any(entry.began > recovered for entry in list(ledger.entries)), 60)
    assert not [entry for entry in ledger.entries if entry.outcome == "whole" and not entry.done]
    assert all(entry.outcome == "whole" for entry in ledger.entries if entry.began > recovered)


def test_a_killed_controller_harms_nobody(harmed: Harmed) -> None:
    with harmed.load(concurrency=2) as ledger:
        time.sleep(2)
        actor = ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
        ray.kill(actor, no_restart=False)
        time.sleep(8)
    ledger.require_whole()
    assert len(replicas(f"engine-{MODEL}")) == 1
