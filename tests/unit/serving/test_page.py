"""The page's files: behind the key, below any path, and nothing in them that reaches elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from starlette.testclient import TestClient

import luthier.serving.page
from luthier.config.serve import ServeConfig
from luthier.serving.admission import Admission
from luthier.serving.keys import KeyRing
from luthier.serving.web import make_app
from tests.unit.serving.test_web import KEY, MASTER, NAMES, echo, make_client

DIRECTORY = Path(luthier.serving.page.__file__).parent
FILES = sorted(path.name for path in DIRECTORY.iterdir() if path.suffix in (".css", ".js", ".svg"))


def directives(policy: str) -> dict[str, str]:
    parts = (part.strip().partition(" ") for part in policy.split(";"))
    return {name: value for name, _, value in parts}


@pytest.mark.parametrize("path", ["/", *(f"/page/{name}" for name in FILES)])
def test_the_page_may_run_its_own_files_alone(path: str) -> None:
    reply = make_client().get(path)
    assert reply.status_code == 200
    policy = directives(reply.headers["content-security-policy"])
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert {policy[f"{kind}-src"] for kind in ("script", "style", "img", "connect")} == {"'self'"}
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["referrer-policy"] == "same-origin"


@pytest.mark.parametrize("name", ["none.js", "index.html", "__init__.py", "..%2fweb.py", "%2fetc%2fpasswd"])
def test_no_other_file_is_told(name: str) -> None:
    assert make_client().get(f"/page/{name}").status_code == 404


def test_a_browser_that_opens_the_page_is_asked_for_the_key() -> None:
    client = make_client()
    del client.headers["authorization"]
    refused = client.get("/", headers={"accept": "text/html,*/*"})
    assert (refused.status_code, refused.headers["www-authenticate"][:6]) == (401, "Basic ")
    assert client.get("/", auth=("anyone", KEY)).status_code == 200


@pytest.mark.parametrize("name", ["index.html", *FILES])
def test_no_file_names_another_host_or_brings_code_in_its_markup(name: str) -> None:
    text = (DIRECTORY / name).read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert "//" not in re.sub(r"^\s*//.*|\s// .*", "", text, flags=re.MULTILINE)
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|\bon[a-z]+=|style=|<style", text
    )


def test_every_file_is_used_and_every_used_file_is_there() -> None:
    texts = [(DIRECTORY / name).read_text(encoding="utf-8") for name in ("index.html", *FILES)]
    used = {name for text in texts for name in re.findall(r'"(?:page|\.)/([a-z]+\.[a-z]+)"', text)}
    assert used == set(FILES)


def test_the_page_lies_below_a_path_too() -> None:
    app = make_app(ServeConfig(), KeyRing(MASTER), lambda: NAMES, echo, Admission(8), root="/luthier")
    client = TestClient(app, "http://127.0.0.1:8000", root_path="/luthier", headers={"authorization": f"Bearer {KEY}"})
    page = client.get("/luthier")  # without the slash the page's relative addresses would lead elsewhere
    assert (page.status_code, page.url.path) == (200, "/luthier/")
    for relative in re.findall(r'(?:href|src)="([^#"]+)"', page.text):
        assert client.get(str(page.url.join(relative))).status_code == 200, relative
    assert client.get(str(page.url.join("v1/versions"))).json() == {"object": "list", "data": []}
