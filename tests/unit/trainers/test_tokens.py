"""Token ids and loss masks, with the real model's tokenizer and chat template."""

from __future__ import annotations

from pathlib import Path

import pytest

from luthier.errors import ModelError
from luthier.rows import Message, Row
from luthier.trainers.tokens import IGNORE, ChatTokenizer, Encoded


@pytest.fixture(scope="module")
def tokenizer(base_model_dir: Path) -> ChatTokenizer:
    return ChatTokenizer(base_model_dir)


def row(*contents: str, system: str | None = None) -> Row:
    spoken = [Message("assistant" if n % 2 else "user", text) for n, text in enumerate(contents)]
    return Row("r:1", (*([Message("system", system)] if system else []), *spoken))


def learnt(encoded: Encoded) -> list[int]:
    return [label for label in encoded.labels if label != IGNORE]


ROWS = [row("hello?", "net"), row("hello?", "two words", system="Sort."), row("Grüße, 你好\n", "naïve  spaces \n x")]


@pytest.mark.parametrize("one", ROWS, ids=["default system", "system", "unicode"])
@pytest.mark.parametrize("assistant_only", [True, False])
def test_the_prompt_in_training_is_the_prompt_in_serving(
    one: Row, assistant_only: bool, tokenizer: ChatTokenizer
) -> None:
    prompt = tokenizer.prompt_ids(one.prompt)
    encoded = tokenizer.encode(one, max_length=512, assistant_only_loss=assistant_only)
    assert encoded.input_ids[: len(prompt)] == prompt
    assert list(prompt) == tokenizer.hf.apply_chat_template(
        [message.as_dict() for message in one.prompt], add_generation_prompt=True, return_dict=False
    )


@pytest.mark.parametrize("one", ROWS, ids=["default system", "system", "unicode"])
def test_loss_lies_on_the_answer_and_the_end_of_its_turn_only(one: Row, tokenizer: ChatTokenizer) -> None:
    encoded = tokenizer.encode(one, max_length=512, assistant_only_loss=True)
    answer = tokenizer.hf(one.answer, add_special_tokens=False)["input_ids"]
    assert learnt(encoded) == [*answer, tokenizer.eos_id]
    assert tokenizer.decode(learnt(encoded)) == one.answer
    start = len(tokenizer.prompt_ids(one.prompt))
    assert [i for i, label in enumerate(encoded.labels) if label != IGNORE] == list(
        range(start, start + len(answer) + 1)
    )
    assert all(label in (IGNORE, token) for token, label in zip(encoded.input_ids, encoded.labels, strict=True))
    assert encoded.num_loss_tokens == len(answer) + 1
    assert not encoded.truncated


def test_every_answer_of_a_conversation_is_learnt(tokenizer: ChatTokenizer) -> None:
    talk = row("one?", "first", "two?", "second", system="s")
    encoded = tokenizer.encode(talk, max_length=512, assistant_only_loss=True)
    assert tokenizer.hf.decode(learnt(encoded)) == f"first{tokenizer.hf.eos_token}second{tokenizer.hf.eos_token}"
    prompt = tokenizer.prompt_ids(talk.prompt)
    assert encoded.input_ids[: len(prompt)] == prompt


def test_every_token_is_learnt_where_the_config_says_so(tokenizer: ChatTokenizer) -> None:
    encoded = tokenizer.encode(row("hello?", "net"), max_length=512, assistant_only_loss=False)
    end = encoded.input_ids.index(tokenizer.eos_id, len(tokenizer.prompt_ids(row("hello?", "net").prompt))) + 1
    assert encoded.labels[:end] == encoded.input_ids[:end]
    assert set(encoded.labels[end:]) <= {IGNORE}
    assert encoded.num_loss_tokens == end - 1  # nothing comes before the first token


def test_what_lies_behind_the_limit_is_cut_off(tokenizer: ChatTokenizer) -> None:
    whole = tokenizer.encode(ROWS[1], max_length=512, assistant_only_loss=True)
    start = len(tokenizer.prompt_ids(ROWS[1].prompt))
    cut = tokenizer.encode(ROWS[1], max_length=start + 1, assistant_only_loss=True)
    assert (cut.input_ids, cut.labels) == (whole.input_ids[: start + 1], whole.labels[: start + 1])
    assert cut.truncated
    assert cut.num_loss_tokens == 1
    assert tokenizer.encode(ROWS[1], max_length=start, assistant_only_loss=True).num_loss_tokens == 0
    exact = len(whole.input_ids)
    assert tokenizer.encode(ROWS[1], max_length=exact, assistant_only_loss=True) == whole
    assert tokenizer.encode(ROWS[1], max_length=exact - 1, assistant_only_loss=True).truncated


def test_a_directory_without_tokenizer_or_template_is_refused(tokenizer: ChatTokenizer, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no tokenizer can be loaded from here"):
        ChatTokenizer(tmp_path)
    tokenizer.hf.save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="the tokenizer has no chat template"):
        ChatTokenizer(tmp_path)


def test_a_template_that_rewrites_earlier_turns_is_refused(base_model_dir: Path) -> None:
    tokenizer = ChatTokenizer(base_model_dir)
    tokenizer.hf.chat_template = "{{ messages | length }}{% for m in messages %}<{{ m.content }}>{% endfor %}"
    with pytest.raises(ModelError, match="rewrites earlier turns"):
        tokenizer.encode(row("q", "a", "q2", "a2"), max_length=512, assistant_only_loss=True)
