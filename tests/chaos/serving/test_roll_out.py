"""An endpoint is changed while it answers, and no request is lost."""

from __future__ import annotations

import time

import httpx
import pytest

from luthier.errors import ServingError
from tests.chaos.serving.conftest import MODEL, Harmed, replicas
from tests.integration.serving.conftest import KEY

pytestmark = pytest.mark.slow


def card(harmed: Harmed) -> dict[str, object]:
    reply = httpx.get(f"{harmed.endpoint.base_url}/models/{MODEL}", headers={"authorization": f"Bearer {KEY}"})
    return dict(reply.raise_for_status().json())


def test_other_limits_change_at_once_and_leave_the_engine_alone(harmed: Harmed) -> None:
    engine = replicas(f"engine-{MODEL}")
    with harmed.load() as ledger:
        time.sleep(2)
        began = time.monotonic()
        harmed.roll_out(**{"limits.max_n": 2})
        took_s = time.monotonic() - began
        time.sleep(3)
    ledger.require_whole()
    assert replicas(f"engine-{MODEL}") == engine
    body = {"model": MODEL, "messages": [{"role": "user", "content": "a"}], "n": 3}
    reply = httpx.post(
        f"{harmed.endpoint.base_url}/chat/completions", json=body, headers={"authorization": f"Bearer {KEY}"}
    )
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "n")
    assert took_s < 30


def test_an_engine_is_replaced_under_load_and_answers_all_the_while(harmed: Harmed) -> None:
    engine = replicas(f"engine-{MODEL}")
    with harmed.load() as ledger:
        time.sleep(2)
        harmed.roll_out(max_model_len=640)
        time.sleep(3)
    ledger.require_whole()
    assert card(harmed)["max_model_len"] == 640
    assert not set(replicas(f"engine-{MODEL}")) & set(engine)
    # The old engine answered until the new one could: no request waited for the minute that an engine takes to start.
    assert max(entry.ended - entry.began for entry in ledger.entries) < 30


def test_a_change_that_fails_leaves_the_endpoint_as_it_was(harmed: Harmed) -> None:
    before, engine = card(harmed)["max_model_len"], replicas(f"engine-{MODEL}")
    with harmed.load() as ledger:
        with pytest.raises(ServingError, match=r"(?s)max_model_len.*again what it was before"):
            harmed.roll_out(max_model_len=1_000_000)
        time.sleep(2)
    ledger.require_whole()
    assert (card(harmed)["max_model_len"], replicas(f"engine-{MODEL}")) == (before, engine)


def test_an_engine_that_is_taken_away_ends_what_it_has_begun(harmed: Harmed) -> None:
    with harmed.load(concurrency=6) as ledger:
        harmed.roll_out(num_replicas=2)
        assert len(replicas(f"engine-{MODEL}")) == 2
        time.sleep(2)
        harmed.roll_out(num_replicas=1)
        time.sleep(3)
    ledger.require_whole()
    assert len(replicas(f"engine-{MODEL}")) == 1
