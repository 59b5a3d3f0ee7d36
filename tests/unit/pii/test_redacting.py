"""What stands in the place of what was found."""

from __future__ import annotations

import json

import pytest

from luthier.pii import Redactor, Way

TEXT = "a@example.com and +49 30 901820 and b@example.com"


@pytest.mark.parametrize(("way", "expected"), [("mask", "<EMAIL> and <PHONE> and <EMAIL>"), ("drop", " and  and ")])
def test_the_rest_of_a_text_stays(way: Way, expected: str) -> None:
    redactor = Redactor(way)
    assert redactor.text(TEXT) == expected
    assert redactor.counts == {"email": 2, "phone": 1}


def test_a_digest_is_the_same_for_the_same_value_under_the_same_key_alone() -> None:
    one, other = Redactor("hash", key=b"one"), Redactor("hash", key=b"other")
    first, again = one.text("A@example.com"), one.text("a@Example.com")
    assert first == again != one.text("b@example.com")
    assert first != other.text("a@example.com")
    assert first.startswith("<EMAIL:")
    assert one.text("4111 1111 1111 1111") == one.text("4111-1111-1111-1111") == one.text("4111111111111111")
    assert one.text(first) == first


def test_a_digest_needs_a_key() -> None:
    with pytest.raises(ValueError, match="key"):
        Redactor("hash")


def test_nested_values_are_redacted_however_deep() -> None:
    value = {"a@example.com": [{"text": TEXT, "n": 4111111111111111, "ok": True, "none": None, "x": 1.5}]}
    assert Redactor().value(value) == {
        "<EMAIL>": [{"text": "<EMAIL> and <PHONE> and <EMAIL>", "n": "<CARD>", "ok": True, "none": None, "x": 1.5}]
    }


def test_arguments_of_a_tool_stay_json_and_escapes_hide_nothing() -> None:
    arguments = json.dumps({"to": "jürgen@example.com", "card": 4111111111111111}).replace("@", "\\u0040")
    assert "@" not in arguments
    assert json.loads(Redactor().json_text(arguments)) == {"to": "<EMAIL>", "card": "<CARD>"}
    assert "example" not in Redactor().json_text(arguments[:35])  # cut off


def test_text_that_utf8_can_not_hold_is_hashed_all_the_same() -> None:
    assert "\ud800" in Redactor("hash", key=b"k").text("\ud800 password=a1b2c3d4\ud800")
