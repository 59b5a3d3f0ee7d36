"""Captured requests: which, without what, and that the files are nobody else's. The writer is the real process."""

from __future__ import annotations

import json
import resource
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from luthier.config.capture import CaptureConfig
from luthier.config.serve import ServeConfig
from luthier.errors import ConfigError
from luthier.serving import capture_writer
from luthier.serving.admission import Admission
from luthier.serving.capture import Capture
from luthier.serving.capture_files import HASH_KEY, Files, check_directory, open_directory
from luthier.serving.capture_writer import writer
from luthier.serving.keys import KeyRing
from luthier.serving.replies import Failure, Part
from luthier.serving.spec import Route
from luthier.serving.web import make_app
from tests.unit.serving.test_web import KEY, MASTER, NAMES

PII = "jane@example.com"
CALL = {"function": {"name": "mail", "arguments": json.dumps({"to": PII}).replace("@", "\\u0040")}}
WHOLE = {
    "choices": [
        {"index": 1, "message": {"role": "assistant", "content": None, "tool_calls": [CALL]}, "finish_reason": "tool_calls"},
        {"index": 0, "message": {"role": "assistant", "content": f"ask {PII}"}, "finish_reason": "stop"},
    ],
    "usage": {"prompt_tokens": 5, "completion_tokens": 3},
}  # fmt: skip


def event(**choice: Any) -> str:
    return f"data: {json.dumps({'choices': [choice]})}\n\n"


async def answer(route: Route, model: str, body: dict[str, Any]) -> AsyncGenerator[Part]:
    if body.get("user") == "fails":
        yield Failure(500, "broken")
    elif route == "completions":
        yield {"choices": [{"index": 0, "text": f"to {PII}", "finish_reason": "length"}], "usage": {}}
    elif body.get("stream"):
        # An address, in pieces, none of which is one.
        for piece in ("ask ", "jane", "@exam", "ple.com"):
            yield event(index=0, delta={"content": piece}, finish_reason=None)
        yield event(index=0, delta={}, finish_reason="stop")
        yield 'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":3,"total_tokens":8}}\n\n'
        yield "data: [DONE]\n\n"
    else:
        yield WHOLE


class Captured:
    """An endpoint that captures, and what it did."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        self.directory = directory
        self.outcomes: list[str] = []
        settings = {"path": str(directory), "sample": 1.0, **settings}
        self.capture = Capture(CaptureConfig.model_validate(settings), self.outcomes.append)
        ids = (f"request-{number}" for number in range(10**6))
        app = make_app(
            ServeConfig(),
            KeyRing(MASTER),
            lambda: NAMES,
            answer,
            Admission(8),
            observe=self.capture.saw,
            listen=self.capture.listen,
            request_id=lambda: next(ids),
        )
        self.client = TestClient(app, "http://localhost", headers={"authorization": f"Bearer {KEY}"})

    def ask(self, text: Any = f"I am {PII}", **fields: Any) -> str:
        messages = [{"role": "user", "name": "jane", "content": text}]
        reply = self.client.post("/v1/chat/completions", json={"model": "demo", "messages": messages, **fields})
        return reply.text

    def lines(self) -> list[dict[str, Any]]:
        """What was written, once the writer has ended."""
        self.capture.close()
        files = sorted(self.directory.glob("capture-*.jsonl"))
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]


Make = Callable[..., Captured]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Captured] = []

    def start(**settings: Any) -> Captured:
        made.append(Captured(tmp_path / "captures", **settings))
        return made[-1]

    yield start
    for one in made:
        one.capture.close()


def test_a_request_is_kept_with_its_answer_and_without_what_is_personal(make: Make) -> None:
    endpoint = make()
    endpoint.ask([{"type": "text", "text": f"I am {PII}"}], user=PII)
    endpoint.ask(stream=True)
    endpoint.client.post("/v1/completions", json={"model": "demo", "prompt": [f"I am {PII}", "x"]})
    endpoint.ask("hello", user="fails")
    whole, streamed, completion, failed = endpoint.lines()
    assert whole["messages"] == [{"role": "user", "content": [{"type": "text", "text": "I am <EMAIL>"}]}]
    called = {"name": "mail", "arguments": '{"to": "<EMAIL>"}'}
    assert whole["answers"] == [
        {"content": "ask <EMAIL>", "finish_reason": "stop"},
        {"content": None, "finish_reason": "tool_calls", "tool_calls": [called]},
    ]
    assert whole["redacted"] == {"email": 3}
    assert (whole["model"], whole["key"], whole["status"]) == ("demo@2", "master", 200)
    assert (whole["prompt_tokens"], whole["completion_tokens"]) == (5, 3)
    assert streamed["answers"] == [{"content": "ask <EMAIL>", "finish_reason": "stop"}]
    assert (streamed["stream"], streamed["completion_tokens"]) == (True, 3)
    assert (completion["prompt"], completion["answers"][0]["content"]) == (["I am <EMAIL>", "x"], "to <EMAIL>")
    assert (failed["status"], failed["answers"]) == (500, [])
    assert "jane" not in str([whole, streamed, completion, failed])
    assert Counter(endpoint.outcomes) == {"written": 4}


def test_only_the_owner_can_read_what_is_kept(make: Make) -> None:
    endpoint = make(redact="hash")
    endpoint.ask()
    endpoint.lines()
    assert endpoint.directory.stat().st_mode & 0o777 == 0o700
    modes = {path.name.partition("-")[0]: path.stat().st_mode & 0o777 for path in endpoint.directory.iterdir()}
    assert modes == {"capture": 0o600, HASH_KEY: 0o600}


def test_a_sample_is_chosen_by_the_requests_id(make: Make) -> None:
    endpoint = make(sample=0.3)
    ids = [f"request-{number}" for number in range(2000)]
    chosen = [one for one in ids if endpoint.capture.chooses(one)]
    assert 500 < len(chosen) < 700
    for _ in range(20):
        endpoint.ask("hello")
    assert [line["request_id"] for line in endpoint.lines()] == [one for one in ids[:20] if one in chosen]


def test_a_prompt_of_token_ids_is_not_kept(make: Make) -> None:
    endpoint = make()
    assert endpoint.client.post("/v1/completions", json={"model": "demo", "prompt": [1, 2, 3]}).status_code == 200
    assert endpoint.lines() == []
    assert endpoint.outcomes == ["refused"]


def test_a_writer_that_ends_loses_requests_and_holds_up_none(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    endpoint = make()
    endpoint.directory.chmod(0o755)  # which the writer refuses
    for _ in range(100):
        began = time.monotonic()
        assert "choices" in endpoint.ask()
        assert time.monotonic() - began < 5
    assert endpoint.lines() == []
    assert set(endpoint.outcomes) == {"dropped"}
    assert len([one for one in caplog.records if "not captured" in one.message]) == 1
    assert PII not in caplog.text


def settings_of(directory: Path, **settings: Any) -> CaptureConfig:
    return CaptureConfig.model_validate({"path": str(directory), **settings})


def request_line(text: str) -> bytes:
    asked = {"messages": [{"role": "user", "content": text}]}
    return json.dumps({"facts": {"request_id": "x"}, "asked": asked, "parts": []}).encode()


def test_what_can_not_be_redacted_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = writer(settings_of(tmp_path / "captures"))
    monkeypatch.setattr(capture_writer, "LONGEST_S", 0.2)
    assert write(request_line("212-555-1234 " * 20_000)) == "TimeoutError"
    assert write(request_line("[" * 1000)) == "written"
    assert write(b'{"facts": {"request_id": "x"}, "asked": {}, "parts": ["data: {"]}') == "JSONDecodeError"
    assert len(list((tmp_path / "captures").iterdir())) == 1
    monkeypatch.setattr(capture_writer, "Redactor", lambda *_: None)
    assert write(request_line(PII)) == "AttributeError"
    (file,) = (tmp_path / "captures").iterdir()
    assert file.read_text().count("\n") == 1


def test_files_make_room_for_others(tmp_path: Path) -> None:
    files = Files(tmp_path, max_file_bytes=100, max_files=3)
    for number in range(10):
        files.append(b"%060d\n" % number)
    assert [int(path.read_text()) for path in sorted(tmp_path.iterdir())] == [7, 8, 9]
    with pytest.raises(ValueError, match="max_file_bytes"):
        files.append(b"x" * 101)


def test_the_same_value_has_the_same_digest_as_long_as_the_key_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = settings_of(tmp_path / "one", redact="hash"), settings_of(tmp_path / "other", redact="hash")
    assert open_directory(one) == open_directory(one) != open_directory(other)
    named = settings_of(tmp_path / "one", redact="hash", hash_key_env="CAPTURE_KEY")
    with pytest.raises(ConfigError, match="CAPTURE_KEY is not set"):
        open_directory(named)
    monkeypatch.setenv("CAPTURE_KEY", "k")
    assert open_directory(named) == b"k"


def test_a_directory_that_others_can_enter_is_refused(tmp_path: Path) -> None:
    check_directory(tmp_path / "none")
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o755)
    with pytest.raises(ConfigError, match=r"mode 755.*chmod 700"):
        check_directory(open_to_all)
    file = tmp_path / "file"
    file.touch(0o600)
    with pytest.raises(ConfigError, match="not a directory"):
        check_directory(file)
    with pytest.raises(ConfigError, match="can't be made"):
        open_directory(settings_of(file / "below"))


def test_a_full_disk_leaves_no_half_line(tmp_path: Path) -> None:
    files = Files(tmp_path, max_file_bytes=1000, max_files=3)
    files.append(b"first\n")
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, most))
    try:
        with pytest.raises(OSError, match="No space"):
            files.append(b"second\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    files.append(b"third\n")
    (file,) = tmp_path.iterdir()
    assert file.read_text() == "first\nthird\n"


def test_nothing_is_captured_by_default() -> None:
    assert ServeConfig().capture.path is None
