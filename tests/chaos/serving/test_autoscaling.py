"""Engines come with the requests and go with them, down to none."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.chaos.serving.conftest import MODEL, Harmed, replicas

pytestmark = pytest.mark.slow

FAST = {"autoscale.upscale_delay_s": 0, "autoscale.downscale_delay_s": 10, "autoscale.look_back_s": 10.1}


def wait_for(done: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.5)


def test_a_step_of_load_brings_a_second_engine_and_its_end_takes_it_away(harmed: Harmed) -> None:
    harmed.roll_out(**FAST, **{"num_replicas": "[1,2]", "autoscale.target_ongoing_requests": 2})
    assert len(replicas(f"engine-{MODEL}")) == 1
    with harmed.load(concurrency=8) as ledger:
        wait_for(lambda: len(replicas(f"engine-{MODEL}")) == 2, 180)
        time.sleep(2)
    wait_for(lambda: len(replicas(f"engine-{MODEL}")) == 1, 120)
    ledger.require_whole()


def test_an_unused_model_holds_nothing_and_wakes_for_a_request(harmed: Harmed) -> None:
    harmed.roll_out(**FAST, num_replicas="[0,1]", request_timeout_s=180)
    wait_for(lambda: not replicas(f"engine-{MODEL}"), 180)
    with harmed.load(concurrency=1, max_tokens=4) as ledger:
        wait_for(lambda: bool(ledger.entries), 180)
    ledger.require_whole()
    assert replicas(f"engine-{MODEL}")
