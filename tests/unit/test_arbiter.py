"""A judge that is asked over HTTP: a small server with the protocol, and fixed opinions."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import RedirectResponse

from luthier.arbiter import ask_judge, judge_text
from luthier.config import RunConfig, apply_overrides
from luthier.errors import ConfigError
from luthier.evaluation_parts import JudgeScores
from luthier.preflight import check_judgeable
from luthier.trainers.evaluation import render_report
from luthier.trainers.evaluation.judge_client import OUT_OF_TIME
from luthier.trainers.files import evaluation_rows
from luthier.view import QuietView
from tests.unit.artifacts import make_evaluation
from tests.unit.judged import answered, labelled_config

KEY = "the-key-of-the-judge"
FREE = [{"prompt": f"question {n}", "completion": "right"} for n in range(12)]


class Judge:
    """What the server did, and how it is to answer by the name of the model that is asked for."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str] = set()
        self.at_once, self.most_at_once = 0, 0
        self.app = FastAPI()
        self.app.post("/v1/chat/completions")(self.answer)

    def answer(self, request: Request, body: dict[str, Any]) -> Any:
        self.bodies.append(body)
        self.keys.add(request.headers["authorization"])
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return self._opinion(body)
        finally:
            self.at_once -= 1

    def _opinion(self, body: dict[str, Any]) -> Any:
        model = body["model"]
        if model == "redirecting":
            return RedirectResponse("http://192.0.2.1/v1/chat/completions", status_code=307)
        if model == "forbidding":
            raise HTTPException(401)
        if model == "slow":
            time.sleep(0.4)
        if model == "busy at first" and len(self.bodies) <= 2:
            raise HTTPException(429, headers={"retry-after": "0.05"})
        text = {"first": "A", "talkative": "I prefer answer A"}.get(model) or longer(body["messages"][1]["content"])
        return {
            "id": "x", "object": "chat.completion", "created": 0, "model": model,
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
        }  # fmt: skip


def longer(asked: str) -> str:
    """The opinion of a judge who likes length."""
    first, second = re.findall(r"<<<ANSWER [AB] \w+>>>\n(.*?)\n<<<END", asked, re.DOTALL)
    return "tie" if len(first) == len(second) else "A" if len(first) > len(second) else "B"


@pytest.fixture
def judge() -> Iterator[tuple[Judge, str]]:
    served = Judge()
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(served.app, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield served, f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        server.should_exit = True
        thread.join()


def asked(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> JudgeScores:
    """Twelve rows: tuned's answer is the longer one in six, the shorter in two, as long in one, equal in three."""
    monkeypatch.setenv("JUDGE_KEY", KEY)
    monkeypatch.setenv("http_proxy", "http://192.0.2.1:9")  # a local judge is not asked through it
    described = {"base_url": url, "model": "length", "api_key_env": "JUDGE_KEY", **settings}
    cfg = labelled_config(tmp_path, FREE, offline=True, evaluate={"judge": described, "bootstrap_samples": 100})
    rows = evaluation_rows(cfg)
    tuned = ["longer"] * 6 + ["no"] * 2 + ["yes"] + ["equal"] * 3
    base = ["short"] * 6 + ["yes"] * 2 + ["non"] + ["equal "] * 3
    found = ask_judge(cfg, rows, {"tuned": answered(rows, tuned), "base": answered(rows, base)}, QuietView())
    assert found is not None
    return found


def test_a_just_judge(judge: tuple[Judge, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server, url = judge
    found = asked(tmp_path, url, monkeypatch)
    assert (found.drawn, found.n, found.wins, found.losses, found.ties, found.equal) == (12, 12, 6, 2, 4, 3)
    assert (found.disagreements, found.unparsable, found.failed, found.first_share) == (0, 0, 0, 0.5)
    assert found.win_rate is not None
    assert found.win_rate.value == pytest.approx((6 + 2) / 12)
    assert len(server.bodies) == 18
    assert server.keys == {f"Bearer {KEY}"}
    assert {(body["temperature"], body["seed"], body["max_tokens"]) for body in server.bodies} == {(0.0, 42, 8)}
    page = render_report(title="judged", evaluation=make_evaluation().model_copy(update={"judged": found}))
    for told in ("<h2>Judge</h2>", "0.667", "50%", "0 are rows on which the two orders disagree"):
        assert told in page
    assert KEY not in page


def test_a_judge_of_positions_wins_nothing(
    judge: tuple[Judge, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = asked(tmp_path, judge[1], monkeypatch, model="first")
    assert (found.wins, found.losses, found.ties, found.disagreements, found.first_share) == (0, 0, 12, 9, 1.0)
    assert found.p_value is None


def test_what_is_no_verdict_is_counted(
    judge: tuple[Judge, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = asked(tmp_path, judge[1], monkeypatch, model="talkative")
    assert (found.n, found.unparsable, found.failed) == (3, 9, 0)
    assert "9 rows without a verdict" in judge_text(found)


def test_a_busy_endpoint_is_asked_again(
    judge: tuple[Judge, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = asked(tmp_path, judge[1], monkeypatch, model="busy at first")
    assert (found.n, found.failed, len(judge[0].bodies)) == (12, 0, 20)
    given_up = asked(tmp_path, judge[1], monkeypatch, model="forbidding")
    assert given_up.failures == {"AuthenticationError 401": 18}
    assert "9 rows failed (AuthenticationError 401 x 18)" in judge_text(given_up)


def test_requests_time_and_rows_are_bounded(
    judge: tuple[Judge, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, url = judge
    began = time.monotonic()
    found = asked(tmp_path, url, monkeypatch, model="slow", concurrency=2, max_seconds=1.0)
    assert time.monotonic() - began < 8
    assert server.most_at_once <= 2
    assert found.failures[OUT_OF_TIME] >= 10
    silent = asked(tmp_path, url, monkeypatch, model="slow", timeout_s=0.1, max_retries=0, max_rows=4)
    assert silent.drawn == 4
    assert set(silent.failures) <= {"APITimeoutError"}


def test_nothing_follows_the_texts_elsewhere(
    judge: tuple[Judge, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = asked(tmp_path, judge[1], monkeypatch, model="redirecting", max_retries=0)
    assert (found.n, found.failed) == (3, 9)
    assert set(found.failures) == {"APIStatusError 307"}


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("https://judge.example.com/v1", "is not on this machine, and offline: true lets nothing leave it"),
        ("http://127.0.0.1.example.com/v1", "is not on this machine"),
        ("ftp://127.0.0.1/v1", "it must be an http or https address"),
        ("http://me@127.0.0.1/v1", "it must hold no user, password or query"),
    ],
)
def test_addresses_that_are_refused(quickstart: RunConfig, url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        apply_overrides(quickstart, {"offline": True, "evaluate.judge": {"base_url": url, "model": "m"}})


def test_addresses_that_are_not(quickstart: RunConfig) -> None:
    for offline, url in (
        (True, "http://[::1]:9/v1"),
        (True, "http://localhost:9/v1"),
        (False, "https://judge.example.com/v1"),
    ):
        apply_overrides(quickstart, {"offline": offline, "evaluate.judge": {"base_url": url, "model": "m"}})


def test_a_key_that_is_not_set_is_told_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    described = {"base_url": "http://127.0.0.1:9/v1", "model": "m", "api_key_env": "JUDGE_KEY"}
    with pytest.raises(ConfigError, match=r"evaluate\.judge\.api_key_env: JUDGE_KEY is not set"):
        check_judgeable(labelled_config(tmp_path, FREE, evaluate={"judge": described}))
    with pytest.raises(ValueError, match="objective: classification gives none"):
        labelled_config(tmp_path, FREE, evaluate={"judge": described}, train={"objective": "classification"})
