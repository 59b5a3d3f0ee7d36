"""Rows without personal data: what is changed, what is not, and whose digests are the same."""

from __future__ import annotations

import pytest

from luthier.config.checks import RedactionConfig
from luthier.errors import ConfigError
from luthier.rows import Message, Row
from luthier.trainers.doctor.redact import RowRedactor, key_mark, redacted

TALK = Row("t:1", (Message("user", "I am jane@example.com"), Message("assistant", "Hello, jane@example.com")))


def without(row: Row, settings: RedactionConfig | None = None) -> Row:
    return redacted([row], settings or RedactionConfig())[0]


def test_every_turn_is_changed_and_the_kinds_are_told() -> None:
    changed, kinds = RowRedactor(RedactionConfig(), b"")(TALK)
    assert [message.content for message in changed.messages] == ["I am <EMAIL>", "Hello, <EMAIL>"]
    assert (changed.row_id, kinds) == ("t:1", ("email",))


def test_a_row_without_any_stays_as_it_is() -> None:
    row = Row("t:1", (Message("user", "why?"), Message("assistant", "so")))
    assert RowRedactor(RedactionConfig(), b"")(row) == (row, ())
    assert redacted([TALK, row], None) == [TALK, row]


def test_text_and_a_rejected_answer_are_changed_too() -> None:
    assert without(Row("t:1", (), text="from 203.0.113.57")).text == "from <IP>"
    pair = Row("t:1", (Message("user", "who?"), Message("assistant", "I")), rejected="jane@example.com")
    assert without(pair).rejected == "<EMAIL>"


def test_a_label_stays_what_it_is() -> None:
    text = "ping 203.0.113.57"
    row = Row("t:1", (Message("user", text), Message("assistant", "203.0.113.58")), "203.0.113.58", text=text)
    changed = without(row)
    assert (changed.question, changed.text, changed.answer, changed.label) == (
        *["ping <IP>"] * 2,
        *["203.0.113.58"] * 2,
    )


def test_only_the_kinds_that_are_named() -> None:
    settings = RedactionConfig(way="drop", kinds=("ip",))
    assert without(Row("t:1", (), text="a@b.co 203.0.113.57."), settings).text == "a@b.co ."


def test_digests_are_those_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = RedactionConfig(way="hash", hash_key_env="DATA_KEY")
    monkeypatch.setenv("DATA_KEY", "one")
    first, mark = without(TALK, settings), key_mark(settings)
    assert first == without(TALK, settings)
    monkeypatch.setenv("DATA_KEY", "other")
    assert first != without(TALK, settings)
    assert mark is not None and mark != key_mark(settings) and "one" not in mark
    monkeypatch.delenv("DATA_KEY")
    with pytest.raises(ConfigError, match=r"data\.redact\.hash_key_env: environment variable DATA_KEY is not set"):
        key_mark(settings)


def test_hash_and_its_key_go_together() -> None:
    for settings in ({"way": "hash"}, {"way": "mask", "hash_key_env": "DATA_KEY"}):
        with pytest.raises(ValueError, match="hash_key_env"):
            RedactionConfig.model_validate(settings)
