"""Token ids and loss masks, with the real model's tokenizer and chat template."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luthier.errors import DataError, ModelError
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
    assert encoded.labels == encoded.input_ids
    assert encoded.input_ids[-1] == tokenizer.eos_id
    assert encoded.num_loss_tokens == len(encoded.input_ids) - 1  # nothing comes before the first token


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


# What is particular about the templates of four model families, in their own words.
QWEN3 = """{%- for m in messages %}
{{- '<|im_start|>' + m.role + '\\n' }}
{%- if m.role == 'assistant' and loop.last %}{{- '<think>\\n\\n</think>\\n\\n' }}{% endif %}
{{- m.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{% endif %}
{%- endif %}"""
PHI3 = """{% for m in messages %}{{ '<|' + m.role + '|>\\n' + m.content + '<|end|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"""
GEMMA = """{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- for m in messages %}
{{- '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' + m.content | trim + '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"""
DEEPSEEK_R1 = """{% for m in messages %}{{ '<|im_start|>' + m.role + m.content + eos_token }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant<think>\\n' }}{% endif %}"""


@pytest.fixture
def family(base_model_dir: Path, tmp_path: Path) -> Callable[..., ChatTokenizer]:
    """The real tokenizer with another template and the special tokens that it needs."""

    def make(template: str, *special: str) -> ChatTokenizer:
        from transformers import AutoTokenizer

        hf: Any = AutoTokenizer.from_pretrained(base_model_dir)
        hf.add_special_tokens({"additional_special_tokens": [*special]})
        hf.chat_template = template
        hf.save_pretrained(tmp_path)
        return ChatTokenizer(tmp_path)

    return make


TALK = row("one?", "first", "two?", "second")


def test_a_thinking_template_is_told_once_not_to_think(family: Callable[..., ChatTokenizer], tmp_path: Path) -> None:
    tokenizer = family(QWEN3)
    prompt, answer = tokenizer.answer_ids(row("q?", "a"))
    assert tokenizer.hf.decode(prompt).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert tokenizer.hf.decode(answer) == "a<|im_end|>"
    tokenizer.hf.save_pretrained(tmp_path / "artifact")
    again = ChatTokenizer(tmp_path / "artifact")
    assert again.hf.chat_template == tokenizer.hf.chat_template
    rendered = again.hf.apply_chat_template([{"role": "user", "content": "q?"}], add_generation_prompt=True)
    assert tuple(rendered["input_ids"]) == prompt


def test_a_prompt_is_what_the_server_renders_even_where_earlier_turns_are_rewritten(
    family: Callable[..., ChatTokenizer],
) -> None:
    tokenizer = family(QWEN3)
    prompt, answer = tokenizer.answer_ids(TALK)
    turns = [message.as_dict() for message in TALK.prompt]
    assert prompt == tuple(tokenizer.hf.apply_chat_template(turns, add_generation_prompt=True)["input_ids"])
    encoded = tokenizer.encode(TALK, max_length=512, assistant_only_loss=True)
    assert encoded.input_ids == prompt + answer
    # The first answer was generated after an empty thought that the template has removed since.
    assert tokenizer.hf.decode(learnt(encoded)) == "second<|im_end|>"


def test_every_answer_is_learnt_though_the_template_ends_a_conversation_with_eos(
    family: Callable[..., ChatTokenizer],
) -> None:
    tokenizer = family(PHI3, "<|user|>", "<|assistant|>", "<|end|>")
    end = tokenizer.hf.convert_tokens_to_ids("<|end|>")
    assert tokenizer.stop_ids == (tokenizer.eos_id, end)
    encoded = tokenizer.encode(TALK, max_length=512, assistant_only_loss=True)
    assert tokenizer.hf.decode(learnt(encoded)) == "first<|end|>second<|end|>"
    assert encoded.input_ids[-1] == end


def test_what_ends_a_turn_comes_from_template_and_generation_settings(
    family: Callable[..., ChatTokenizer], tmp_path: Path
) -> None:
    tokenizer = family(GEMMA, "<start_of_turn>", "<end_of_turn>")
    end = tokenizer.hf.convert_tokens_to_ids("<end_of_turn>")
    assert tokenizer.stop_ids == (tokenizer.eos_id, end)
    encoded = tokenizer.encode(TALK, max_length=512, assistant_only_loss=True)
    assert tokenizer.hf.decode(learnt(encoded)) == "first<end_of_turn>second<end_of_turn>"
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [0, 7]}')
    assert ChatTokenizer(tmp_path).stop_ids == (tokenizer.eos_id, 0, 7, end)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 0}')
    assert ChatTokenizer(tmp_path).stop_ids == (tokenizer.eos_id, 0, end)


def test_a_stop_token_inside_an_answer_does_not_end_its_turn(tokenizer: ChatTokenizer) -> None:
    encoded = tokenizer.encode(row("q?", "a<|im_end|>b"), max_length=512, assistant_only_loss=True)
    assert tokenizer.hf.decode(learnt(encoded)) == "a<|im_end|>b<|im_end|>"


def test_an_answer_without_an_end_gets_one(family: Callable[..., ChatTokenizer]) -> None:
    tokenizer = family(
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    encoded = tokenizer.encode(TALK, max_length=512, assistant_only_loss=True)
    assert tokenizer.hf.decode(learnt(encoded)) == f"second{tokenizer.hf.eos_token}"


def test_a_conversation_that_the_template_refuses_is_named(family: Callable[..., ChatTokenizer]) -> None:
    tokenizer = family(GEMMA, "<start_of_turn>", "<end_of_turn>")
    with pytest.raises(DataError, match=r"r:1: .*refuses a conversation of system, user.*System role not supported"):
        tokenizer.encode(row("q", "a", system="s"), max_length=512, assistant_only_loss=True)
    with pytest.raises(ModelError, match="System role not supported"):
        tokenizer.prompt_ids(row("q", "a", system="s").prompt)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (DEEPSEEK_R1, "opens a thought"),
        ("{{ messages | length }}{% for m in messages %}<{{ m.content }}>{% endfor %}", "otherwise than the question"),
        ("{{ raise_exception('never') }}", "refuses a conversation of user: never"),
    ],
)
def test_a_template_that_answers_cannot_be_taught_with_is_refused(
    template: str, expected: str, family: Callable[..., ChatTokenizer]
) -> None:
    with pytest.raises(ModelError, match=expected):
        family(template)
