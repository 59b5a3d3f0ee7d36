"""``luthier status``: what it shows, and that nothing that is not there holds it up. The endpoint is the real web application."""

from __future__ import annotations

import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from rich.console import Console
from typer.testing import CliRunner, Result

from luthier.cli import status as status_module
from luthier.cli.app import app
from luthier.cli.status_view import page
from luthier.config.serve import ServeConfig
from luthier.errors import LuthierError
from luthier.serving.admission import Admission
from luthier.serving.keys import KeyRing
from luthier.serving.web import make_app
from tests.unit.serving.test_standing import NAMES, standing
from tests.unit.serving.test_web import KEY, MASTER, echo

NO_CLUSTER = "http://127.0.0.1:1"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    served = make_app(ServeConfig(), KeyRing(MASTER), lambda: NAMES, echo, Admission(1), standing=standing().tell)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(served, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.fixture
def silent() -> Iterator[str]:
    """A host that takes connections and says nothing."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture(autouse=True)
def nothing_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default places are those of whoever works on this machine."""
    monkeypatch.setattr(status_module, "DEFAULT_ENDPOINT", NO_CLUSTER)
    monkeypatch.setattr("luthier.cluster.jobs.DEFAULT_ADDRESS", NO_CLUSTER)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("LUTHIER_API_KEY", KEY)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["status", *arguments])


def test_an_endpoint_is_shown_where_no_cluster_answers(endpoint: str) -> None:
    done = run("--endpoint", endpoint, "--json")
    seen = json.loads(done.stdout)
    assert done.exit_code == 0
    assert (seen["endpoint"]["url"], len(seen["endpoint"]["models"])) == (endpoint, 4)
    assert (seen["jobs"], len(seen["notes"])) == (None, 1)
    shown = run("--endpoint", f"{endpoint}/v1").stdout
    wanted = ("demo@2", "default", "canary 10%", "1 running, 1 starting", "demo@1 can't be served")
    assert [one for one in wanted if one not in shown] == []


def test_where_nothing_runs_it_says_so_in_a_sentence_each() -> None:
    done = run()
    assert done.exit_code == 0
    assert "No endpoint answers at http://127.0.0.1:1" in done.stdout
    assert "No Ray job server answers" in done.stdout


def test_an_endpoint_found_by_itself_is_sent_the_key_only_if_it_is_one(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_module, "DEFAULT_ENDPOINT", endpoint)
    assert "demo@2" in run().stdout
    seen: list[bytes] = []
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                seen.append(connection.recv(65536))
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")

        thread = threading.Thread(target=answer)
        thread.start()
        monkeypatch.setattr(status_module, "DEFAULT_ENDPOINT", f"http://127.0.0.1:{listening.getsockname()[1]}")
        assert "is no endpoint of luthier's" in run().stdout
        thread.join()
    assert seen[0].startswith(b"GET /health")
    assert KEY.encode() not in seen[0]


@pytest.mark.parametrize(
    ("arguments", "key", "said"),
    [
        (("--endpoint", NO_CLUSTER), KEY, "no endpoint answers at http://127.0.0.1:1"),
        (("--endpoint", "nowhere"), KEY, "is no URL"),
        (("--endpoint", "http://[bad"), KEY, "no endpoint answers"),
        (("--endpoint", "http://host.invalid:8000"), KEY, "no endpoint answers at http://host.invalid:8000"),
        (("--endpoint", "ENDPOINT"), "wrong", "does not know the API key"),
        (("--endpoint", "ENDPOINT"), "", "asks for an API key; give one with --key-file, or the environment variable"),
        (("--endpoint", "ENDPOINT/v2"), KEY, "is no endpoint of luthier's"),
        (("--endpoint", "ENDPOINT", "--key-file", "/no/file"), KEY, "--key-file: '/no/file' can't be read"),
        (("--endpoint", "ENDPOINT", "--address", NO_CLUSTER), KEY, "no Ray job server answers at http://127.0.0.1:1"),
    ],
)
def test_what_was_named_and_is_not_there_is_one_error(
    endpoint: str, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], key: str, said: str
) -> None:
    monkeypatch.setenv("LUTHIER_API_KEY", key)
    done = run(*(one.replace("ENDPOINT", endpoint) for one in arguments))
    assert isinstance(done.exception, LuthierError)
    assert done.exception.exit_code == 2
    assert said in str(done.exception)
    assert done.stdout == ""


@pytest.mark.parametrize("option", ["--endpoint", "--address"])
def test_a_host_that_says_nothing_does_not_hold_it_up(
    silent: str, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    monkeypatch.setattr(status_module, "_DEADLINE_S", 2.0)
    began = time.monotonic()
    done = run(option, silent)
    assert time.monotonic() - began < 8
    assert "did not answer within 2 s" in str(done.exception)


def test_a_key_may_lie_in_a_file(endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.delenv("LUTHIER_API_KEY")
    (tmp_path / "key").write_text(f"{KEY}\n")
    assert run("--endpoint", endpoint, "--key-file", str(tmp_path / "key")).exit_code == 0


SEEN: dict[str, Any] = {
    "endpoint": None,
    "applications": [
        {
            "name": "luthier",
            "status": "DEPLOYING",
            "message": "",
            "deployments": [
                {"deployment": "engine-base", "status": "UPDATING", "replicas": {"STARTING": 1}, "message": "waits"}
            ],
        }
    ],
    "jobs": [
        {
            "job_id": "demo-run-[bold]",
            "status": "FAILED",
            "exit_code": 3,
            "started_s": 1.7e9,
            "ended_s": None,
            "message": "a long message " * 20,
        }
    ],
    "notes": ["no endpoint answers"],
}


@pytest.mark.parametrize("columns", [60, 80, 140])
def test_nothing_is_cut_off_and_nothing_reaches_beyond_the_edge(endpoint: str, columns: int) -> None:
    asked = json.loads(run("--endpoint", endpoint, "--json").stdout)
    for seen, wanted in ((asked, ("demo@2", "1 of 16")), (SEEN, ("luthier", "[bold]", "No endpoint"))):
        console = Console(width=columns, file=io.StringIO())
        console.print(page(seen))
        text = console.file.getvalue()  # type: ignore[attr-defined]
        assert max(map(len, text.splitlines())) <= columns
        assert "…" not in text
        assert [one for one in wanted if one not in text] == []


def test_watching_ends_with_ctrl_c(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", sleep)
    done = run("--endpoint", endpoint, "--watch", "--json", "--interval", "0.5")
    assert (done.exit_code, slept) == (0, [0.5] * 3)
    assert [json.loads(line)["endpoint"]["url"] for line in done.stdout.splitlines()] == [endpoint] * 3
