"""What a key may know of where the endpoint stands."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from starlette.testclient import TestClient

from luthier.config.serve import ServeConfig
from luthier.serving.admission import Admission
from luthier.serving.keys import ApiKey, KeyRing, digest_of
from luthier.serving.names import Ability, Names, Split
from luthier.serving.recent import Recent
from luthier.serving.record import Record
from luthier.serving.standing import Deployment, Standing
from luthier.serving.web import make_app
from tests.unit.serving.test_web import KEY, MASTER, echo

NAMES = Names(
    {"demo": "demo@2", "demo@2": "demo@2", "demo@3": "demo@3", "other@1": "other@1", "base": "base"},
    {"demo@2": "base", "demo@3": "base", "other@1": "base", "base": "base"},
    {"base": Ability("generate", 512)},
    7,
    {"demo@1": "its rank is too large", "other@2": "its files are damaged"},
    {"demo@2": "l2"},
    {"demo": Split("demo@3", "demo@2", 0.1)},
)
TEAM = ApiKey(name="team", sha256=digest_of("team"), models=("demo",))
DEPLOYMENTS = [
    Deployment("ingress", "", "HEALTHY", {"RUNNING": 1}),
    Deployment("engine-base", "base", "UNHEALTHY", {"RUNNING": 1, "STARTING": 1}, ("demo@2", "other@1"), "one failed"),
]


def standing() -> Standing:
    recent = Recent()
    recent.saw(Record("id", "chat", "x", model="demo@2", status=200))
    admission = Admission(140)
    admission.enter()

    async def deployments() -> list[Deployment]:
        return DEPLOYMENTS

    return Standing(lambda: NAMES, recent, admission, deployments, 16)


def told(key: ApiKey) -> dict[str, Any]:
    return asyncio.run(standing().tell(key))


def test_versions_are_told_with_names_canary_figures_and_whether_they_are_loaded() -> None:
    stands = told(MASTER)
    by_model = {one["model"]: one for one in stands["models"]}
    assert set(by_model) == {"base", "demo@2", "demo@3", "other@1"}
    assert {"names": ["demo"], "canary_of": {}, "lineage_id": "l2", "requests": 1}.items() <= by_model["demo@2"].items()
    assert by_model["demo@3"]["canary_of"] == {"demo": 0.1}
    assert [by_model[name]["loaded"] for name in sorted(by_model)] == [True, True, False, True]
    assert by_model["base"]["replicas"] == {"RUNNING": 1, "STARTING": 1}
    assert stands["load"] == {"in_flight": 1, "decoding_most": 16, "in_flight_most": 140}
    assert [one["deployment"] for one in stands["deployments"]] == ["ingress", "engine-base"]
    assert set(stands["problems"]) == {"demo@1", "other@2"}


def test_a_teams_key_is_told_of_its_own_models_alone() -> None:
    stands = told(TEAM)
    assert [one["model"] for one in stands["models"]] == ["demo@2", "demo@3"]
    assert set(stands["problems"]) == {"demo@1"}
    assert "load" not in stands
    assert "deployments" not in stands
    assert "other" not in str(stands)
    assert "base" not in str(stands)


def test_where_the_cluster_does_not_tell_the_rest_is_told() -> None:
    async def silent() -> list[Deployment]:
        return []

    stands = asyncio.run(Standing(lambda: NAMES, Recent(), Admission(1), silent, 1).tell(MASTER))
    assert stands["deployments"] == []
    assert {one["loaded"] for one in stands["models"]} == {False}


def test_the_cluster_is_asked_once_however_many_ask() -> None:
    asked: list[int] = []

    async def deployments() -> list[Deployment]:
        asked.append(1)
        return [replace(DEPLOYMENTS[0])]

    async def many() -> None:
        stands = Standing(lambda: NAMES, Recent(), Admission(1), deployments, 1)
        told = await asyncio.gather(*(stands.tell(MASTER) for _ in range(20)))
        assert {len(one["deployments"]) for one in told} == {1}

    asyncio.run(many())
    assert asked == [1]


def test_the_route_tells_it() -> None:
    app = make_app(ServeConfig(), KeyRing(MASTER), lambda: NAMES, echo, Admission(1), standing=standing().tell)
    client = TestClient(app, "http://localhost", headers={"authorization": f"Bearer {KEY}"})
    assert client.get("/v1/status").json()["object"] == "status"
    assert client.post("/v1/status").status_code == 405
