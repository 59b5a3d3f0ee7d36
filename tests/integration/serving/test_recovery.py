"""An engine that dies while it answers."""

from __future__ import annotations

import json
import os
import signal
import time

import openai
import pytest

from tests.integration.serving.conftest import CHAT, Live
from tests.integration.serving.test_stop import engines


@pytest.mark.slow
def test_a_stream_whose_engine_dies_ends_with_an_error_and_the_next_engine_answers(live: Live) -> None:
    asked = {"model": "demo", "messages": CHAT, "max_tokens": 100, "stream": True, "ignore_eos": True}
    with live.http() as client, client.stream("POST", "/v1/chat/completions", json=asked) as reply:
        events = []
        for line in reply.iter_lines():
            if line:
                events.append(line)
            if len(events) == 2:
                for pid in engines():
                    os.kill(pid, signal.SIGKILL)
    assert "[DONE]" not in events[-1]
    assert json.loads(events[-1].removeprefix("data: "))["error"]["type"] == "server_error"
    deadline = time.monotonic() + 180
    while True:
        try:
            again = live.client().chat.completions.create(model="demo", messages=CHAT, max_tokens=2)
            break
        except openai.APIStatusError:
            assert time.monotonic() < deadline
            time.sleep(1.0)
    assert again.choices
