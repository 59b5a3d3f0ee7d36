"""Requests made from the endpoint's own description, sound and unsound: none makes the server fail."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode

from luthier.config.serve import ServeConfig
from luthier.serving.admission import Admission
from luthier.serving.keys import KeyRing
from luthier.serving.spec import PATHS, Route
from luthier.serving.web import make_app
from tests.unit.serving.test_web import KEY, MASTER, NAMES, echo

HEADERS = {"authorization": f"Bearer {KEY}"}
ASKED: dict[Route, str] = {"chat": "demo", "completions": "demo", "embeddings": "vectors", "classify": "sorter"}
BOUNDED = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize("route", PATHS)
def test_no_request_makes_the_server_fail(route: Route, mode: GenerationMode) -> None:
    app = make_app(ServeConfig(allowed_hosts=["testserver"]), KeyRing(MASTER), lambda: NAMES, echo, Admission(8))
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, headers=HEADERS)

    @BOUNDED
    @given(schema[PATHS[route]]["POST"].as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        if isinstance(case.body, dict):
            case.body["model"] = ASKED[route]
        reply = case.call(headers=HEADERS)
        assert reply.status_code < 500
        if reply.status_code >= 400:
            assert set(reply.json()["error"]) == {"message", "type", "param", "code"}

    ask()
