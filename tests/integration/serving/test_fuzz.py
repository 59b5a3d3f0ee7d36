"""Requests made from the live endpoint's own description: neither it nor the engine behind it fails."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings

from tests.integration.serving.conftest import CHAT, KEY, Live

HEADERS = {"authorization": f"Bearer {KEY}"}
BOUNDED = settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_no_request_makes_the_engine_fail(live: Live, path: str) -> None:
    base_url = live.endpoint.base_url.removesuffix("/v1")
    schema = schemathesis.openapi.from_url(f"{base_url}/openapi.json", headers=HEADERS)

    @BOUNDED
    @given(schema[path]["POST"].as_strategy())
    def ask(case: Any) -> None:
        # So that the request gets as far as the engine, and what it asks for is soon done.
        case.body |= {"model": "demo", "max_tokens": 1, "n": 1, "stream_options": None}
        case.body.pop("max_completion_tokens", None)
        reply = case.call(base_url=base_url, headers=HEADERS)
        assert reply.status_code < 500, case.body

    ask()
    assert live.client().chat.completions.create(model="demo", messages=CHAT, max_tokens=1).choices
