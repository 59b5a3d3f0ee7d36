"""The queue's routes: who is let in, and what a request may hold."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from luthier.cluster.queue.app import make_app
from luthier.cluster.queue.dispatcher import Dispatcher
from luthier.cluster.queue.guard import LIMIT_BYTES
from luthier.cluster.queue.packages import Packages
from luthier.cluster.queue.store import Store
from luthier.cluster.queue.teams import Policy, Team
from luthier.cluster.queue.tokens import Tokens
from luthier.ports import free_port
from tests.unit.cluster.queue.test_store import asked

pytestmark = pytest.mark.unit

CONTENT = b"a package"
DIGEST = hashlib.sha256(CONTENT).hexdigest()
JSON = {"Content-Type": "application/json"}
RAYS, THEIRS = {"Authorization": "Bearer rays", **JSON}, {"Authorization": "Bearer theirs", **JSON}


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """A queue whose head is away."""
    monkeypatch.setenv("RAY_AUTH_TOKEN", "rays")
    monkeypatch.setenv("THEIR_TOKEN", "theirs")
    policy = Policy(teams={"ours": Team(), "theirs": Team(token_env="THEIR_TOKEN")})
    store = Store(tmp_path)
    packages = Packages(tmp_path / "packages", limit_bytes=1000)
    dispatcher = Dispatcher(store, packages, policy, f"http://127.0.0.1:{free_port()}")
    with TestClient(make_app(store, packages, policy, dispatcher, Tokens(policy))) as client:
        yield client


def body(team: str) -> str:
    wanted = asked(team=team)
    package = wanted.submission.package.model_copy(update={"sha256": DIGEST})
    submission = wanted.submission.model_copy(update={"package": package, "env_vars": {"KEY": "canary-secret"}})
    return wanted.model_copy(update={"submission": submission}).model_dump_json()


def test_only_health_is_told_without_a_token(app: TestClient) -> None:
    assert app.get("/health").json() == {"status": "ok", "head": "away"}
    for method, path in (
        ("GET", "/v1/tickets"),
        ("POST", "/v1/tickets"),
        ("GET", "/v1/teams"),
        ("PUT", f"/v1/packages/{DIGEST}"),
        ("DELETE", "/v1/tickets/demo"),
        ("GET", "/docs"),
        ("GET", "/health/../v1/tickets"),
    ):
        assert app.request(method, path, content=b"{}").status_code == 401, path


def test_jobs_wait_while_the_head_is_away_and_show_no_environment(app: TestClient) -> None:
    assert app.post("/v1/tickets", content=body("ours"), headers=RAYS).status_code == 409  # the package comes first
    assert app.head(f"/v1/packages/{DIGEST}", headers=RAYS).status_code == 404
    assert app.put(f"/v1/packages/{DIGEST}", content=CONTENT, headers=RAYS).status_code == 201
    first = app.post("/v1/tickets", content=body("ours"), headers=RAYS)
    assert (first.status_code, first.json()["joined"]) == (201, False)
    assert app.post("/v1/tickets", content=body("ours"), headers=RAYS).status_code == 200
    listed = app.get("/v1/tickets", headers=THEIRS)
    assert [one["state"] for one in listed.json()] == ["queued"]
    assert "canary-secret" not in first.text + listed.text + app.get("/v1/tickets/demo", headers=RAYS).text


def test_a_token_acts_for_its_teams_alone(app: TestClient) -> None:
    app.put(f"/v1/packages/{DIGEST}", content=CONTENT, headers=THEIRS)
    refused = app.post("/v1/tickets", content=body("theirs"), headers=RAYS)
    assert refused.status_code == 403 and "does not open team theirs" in refused.json()["detail"]
    assert app.post("/v1/tickets", content=body("theirs"), headers=THEIRS).status_code == 201
    for method, content in (("DELETE", ""), ("PATCH", '{"priority": "low"}')):
        assert app.request(method, "/v1/tickets/demo", content=content, headers=RAYS).status_code == 403
        assert app.request(method, "/v1/tickets/nope", content=content, headers=RAYS).status_code == 422
    assert app.patch("/v1/tickets/demo", json={"priority": "low"}, headers=THEIRS).json()["priority"] == -50
    assert app.delete("/v1/tickets/demo", headers=THEIRS).json()["state"] == "ended"


def test_bodies_have_limits(app: TestClient) -> None:
    assert app.put(f"/v1/packages/{DIGEST}", content=b"x" * 1001, headers=RAYS).status_code == 400
    assert app.put("/v1/packages/..%2f..%2fqueue", content=b"x", headers=RAYS).status_code in (404, 422)
    assert app.post("/v1/tickets", content=b" " * (LIMIT_BYTES + 1), headers=RAYS).status_code == 413
    assert app.post("/v1/tickets", content=iter([b"{}"]), headers=RAYS).status_code == 411
    assert app.post("/v1/tickets", content=b"{}", headers=RAYS).status_code == 400


def test_a_wrong_request_is_told_of_without_what_it_held(app: TestClient) -> None:
    elsewhere = body("ours").replace(DIGEST, "../../elsewhere")
    refused = app.post("/v1/tickets", content=elsewhere, headers=RAYS)
    assert refused.status_code == 400
    assert "submission" in refused.json()["detail"] and "canary-secret" not in refused.text
