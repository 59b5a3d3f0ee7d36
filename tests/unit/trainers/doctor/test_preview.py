"""The preview tells of each token whether it carries loss, by the real tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.text import Text

from luthier.rows import Message, Row
from luthier.trainers.doctor.preview import Shown, show
from luthier.trainers.tokens import ChatTokenizer, Encoded


@pytest.fixture(scope="module")
def tokenizer(base_model_dir: Path) -> ChatTokenizer:
    return ChatTokenizer(base_model_dir)


def shown(tokenizer: ChatTokenizer, max_length: int = 512, **how: Any) -> tuple[Encoded, Shown]:
    turns = (Message("user", "Grüße, 你好"), Message("assistant", "naïve  spaces \n x"))
    encoded = tokenizer.encode(Row("r:1", turns), max_length=max_length, assistant_only_loss=how.get("only", True))
    return encoded, show(encoded, tokenizer.hf)


def test_the_stretches_are_the_whole_text_and_their_tokens_all_tokens(tokenizer: ChatTokenizer) -> None:
    encoded, row = shown(tokenizer)
    assert "".join(one.text for one in row.stretches) == tokenizer.hf.decode(list(encoded.input_ids))
    assert (row.num_tokens, row.num_learnt) == (len(encoded.input_ids), encoded.num_loss_tokens)
    assert [one.text for one in row.stretches if one.learnt] == ["naïve  spaces \n x<|im_end|>"]


def test_what_is_cut_off_is_not_shown(tokenizer: ChatTokenizer) -> None:
    whole = shown(tokenizer)[1].num_tokens
    encoded, row = shown(tokenizer, whole - 3)
    assert (row.num_tokens, row.num_learnt) == (whole - 3, encoded.num_loss_tokens)
    assert "<|im_end|>" not in row.stretches[-1].text


def test_the_first_token_carries_none_even_where_all_are_learned(tokenizer: ChatTokenizer) -> None:
    encoded, row = shown(tokenizer, only=False)
    assert [(one.learnt, one.num_tokens) for one in row.stretches] == [(False, 1), (True, len(encoded.input_ids) - 1)]


def test_a_classifier_learns_the_class(tokenizer: ChatTokenizer) -> None:
    row = show(Encoded("r:1", (1, 2, 3), (-100, -100, 1)), tokenizer.hf, ("mail", "net"))
    assert (row.num_learnt, row.title) == (0, "r:1: 3 tokens, class net")


def test_the_terminal_shows_text_as_it_is_and_marks_what_is_learned(tokenizer: ChatTokenizer) -> None:
    text = shown(tokenizer)[1].text()
    assert isinstance(text, Text)
    assert [text.plain[span.start : span.end] for span in text.spans if span.style == "bold green"] == [
        "naïve  spaces \n x<|im_end|>"
    ]
