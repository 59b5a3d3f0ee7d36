"""From a conversation to token ids and a loss mask, by the model's own chat template.

A prompt is rendered once and tokenised as that one string, as the server does it, so the tokens of a prompt in training
are exactly the tokens that the same prompt has when it is served. An answer's tokens follow them, up to and with the
one that ends the turn.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from luthier.errors import DataError, ModelError
from luthier.rows import Message, Row

IGNORE = -100
"""Label of a token without loss, as in torch and transformers."""

TOKENIZER_FILES = ("*.json", "*.jinja", "*.model", "*.txt")
"""What a tokenizer may be read from."""

NO_THINKING = "{% set enable_thinking = false %}\n"
"""Put before a template that knows ``enable_thinking`` (Qwen3, SmolLM3): rows hold answers without thoughts. Every
reader of the template then renders alike; the template engine drops the line break."""

_PROBE = (Message("user", "question"), Message("assistant", "answer"))


@dataclass(frozen=True)
class Encoded:
    """One tokenised row.

    Attributes:
        row_id: Id of the row.
        input_ids: Token ids, S of them.
        labels: The token to predict at each position of ``input_ids``, or IGNORE; S of them.
        num_cut: Tokens that were cut off.
    """

    row_id: str
    input_ids: tuple[int, ...]
    labels: tuple[int, ...]
    num_cut: int = 0

    @property
    def truncated(self) -> bool:
        """Whether tokens were cut off."""
        return self.num_cut > 0

    @property
    def num_loss_tokens(self) -> int:
        """Tokens that carry loss. The first token is never predicted."""
        return sum(label != IGNORE for label in self.labels[1:])


class ChatTokenizer:
    """A tokenizer with a chat template.

    Args:
        directory: Directory of the tokenizer; a ``generation_config.json`` in it tells what else ends a turn.

    Attributes:
        hf: The transformers tokenizer; saved, it renders as this one does.
        eos_id: End-of-sequence token.
        pad_id: Padding token.
        stop_ids: Tokens that end an answer, ``eos_id`` first.

    Raises:
        ModelError: There is no tokenizer, no end-of-sequence token, or no chat template that answers can be taught with.
    """

    def __init__(self, directory: Path) -> None:
        self.hf: Any = _load(directory)
        self.eos_id: int = self.hf.eos_token_id
        self.pad_id: int = self.hf.pad_token_id
        self._check_generation_prompt(directory)
        stops = (self.eos_id, *_generation_stops(directory), *self._end_of_turn())
        self.stop_ids: tuple[int, ...] = tuple(dict.fromkeys(stops))

    def prompt_ids(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Tokens of a prompt, up to the point where the assistant begins to answer.

        Raises:
            ModelError: The template refuses the conversation.
        """
        return self._ids(self._render(messages, open_end=True))

    def answer_ids(self, row: Row) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Tokens of a row's prompt, and those of its last answer up to and with the end of its turn.

        Raises:
            DataError: The template refuses the conversation.
        """
        try:
            return self.prompt_ids(row.prompt), self._answer(row.messages)
        except ModelError as error:
            raise DataError(f"{row.row_id}: {error}") from error

    def encode(self, row: Row, *, max_length: int, assistant_only_loss: bool) -> Encoded:
        """Tokenise a row with its answers.

        Earlier answers are learnt as well, unless the template writes them otherwise than they were generated.

        Args:
            row: The row.
            max_length: Tokens kept.
            assistant_only_loss: Mask all but the assistant's turns.

        Raises:
            DataError: The template refuses the conversation.
        """
        prompt, answer = self.answer_ids(row)
        ids = prompt + answer
        before = self._earlier_answers(row.prompt, prompt) if assistant_only_loss else prompt
        return Encoded(row.row_id, ids[:max_length], (before + answer)[:max_length], max(len(ids) - max_length, 0))

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of generated tokens, special tokens left out."""
        return str(self.hf.decode(list(token_ids), skip_special_tokens=True))

    def _earlier_answers(self, messages: Sequence[Message], prompt: tuple[int, ...]) -> tuple[int, ...]:
        """Labels of a prompt: its answers, each where it follows the very tokens that it would be generated after."""
        labels = [IGNORE] * len(prompt)
        for end, message in enumerate(messages):
            if message.role != "assistant":
                continue
            asked = self.prompt_ids(messages[:end])
            turn = self._turn(prompt[len(asked) :], message.content)
            if prompt[: len(asked)] == asked and turn == self._answer(messages[: end + 1]):
                labels[len(asked) : len(asked) + len(turn)] = turn
        return tuple(labels)

    def _answer(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Tokens of the last turn's answer."""
        return self._turn(self._ids(self._after_prompt(messages)), messages[-1].content)

    def _after_prompt(self, messages: Sequence[Message]) -> str:
        """What the template writes from the point where the last turn's answer begins."""
        prompt = self._render(messages[:-1], open_end=True)
        whole = self._render(messages, open_end=False)
        if not whole.startswith(prompt):
            raise ModelError(
                "the chat template writes an answered question otherwise than the question before its answer, so the "
                "answer can't be told apart; use another model or give the tokenizer another template."
            )
        return whole[len(prompt) :]

    def _turn(self, ids: tuple[int, ...], content: str) -> tuple[int, ...]:
        """An answer up to and with the token that ends it; what the template writes after that is not generated.

        The end is the first stop token that is not the content's own. A template that writes none gets one, or the
        model would never learn to stop.
        """
        stops = [position for position, token in enumerate(ids) if token in self.stop_ids]
        inside = sum(token in self.stop_ids for token in self._ids(content)) if self._may_stop(content) else 0
        return ids[: stops[inside] + 1] if len(stops) > inside else (*ids, self.eos_id)

    def _may_stop(self, content: str) -> bool:
        """Whether a text may hold a stop token: one that is written in it, or any that is found otherwise than as written."""
        added = self.hf.added_tokens_decoder
        stops = [added.get(token) for token in self.stop_ids]
        return any(stop is None or stop.normalized or stop.content in content for stop in stops)

    def _check_generation_prompt(self, directory: Path) -> None:
        """Refuse a template that makes the model think before each answer (DeepSeek-R1)."""
        prompt = self._render(_PROBE[:1], open_end=True)
        if prompt.rfind("<think>") > prompt.rfind("</think>"):
            raise ModelError(
                f"{directory}: the chat template opens a thought (<think>) before each answer, which rows without "
                "thoughts can't teach; use a model that answers directly, or a template without <think>."
            )

    def _end_of_turn(self) -> tuple[int, ...]:
        """The first special token that the template writes after an answer: ``<end_of_turn>``, ``<|end|>``."""
        text = self._after_prompt(_PROBE)
        tail = self._ids(text[text.rindex(_PROBE[1].content) + len(_PROBE[1].content) :])
        special = {token for token, added in self.hf.added_tokens_decoder.items() if added.special}
        return tuple(token for token in tail if token in special)[:1]

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.hf(text, add_special_tokens=False)["input_ids"])

    def _render(self, messages: Sequence[Message], *, open_end: bool) -> str:
        from jinja2 import TemplateError

        turns = [message.as_dict() for message in messages]
        try:
            return str(self.hf.apply_chat_template(turns, tokenize=False, add_generation_prompt=open_end))
        except TemplateError as error:
            roles = ", ".join(message.role for message in messages)
            raise ModelError(
                f"the model's chat template refuses a conversation of {roles}: {error}; leave out what it refuses "
                "(datasets[].system, for one), or use another model."
            ) from error


class TextTokenizer:
    """A tokenizer for plain text, with or without a chat template.

    Args:
        directory: Directory of the tokenizer.
        need_eos: Whether it must have an end-of-sequence token.

    Attributes:
        hf: The transformers tokenizer.
        pad_id: Padding token.

    Raises:
        ModelError: There is no tokenizer, or it lacks a token that is needed.
    """

    def __init__(self, directory: Path, *, need_eos: bool = False) -> None:
        self.hf: Any = _load(directory, chat=False)
        self._eos_id: int | None = self.hf.eos_token_id
        if self._eos_id is None and need_eos:
            raise ModelError(f"{directory}: the tokenizer has no end-of-sequence token.")
        if self.hf.pad_token_id is None:
            raise ModelError(f"{directory}: the tokenizer has neither a padding nor an end-of-sequence token.")
        self.pad_id: int = self.hf.pad_token_id

    @property
    def eos_id(self) -> int:
        """End-of-sequence token; only of a tokenizer that was asked to have one."""
        assert self._eos_id is not None
        return self._eos_id

    def text_ids(self, text: str) -> tuple[int, ...]:
        """Tokens of a text with the special tokens that the model puts around it."""
        return tuple(self.hf(text, verbose=False)["input_ids"])

    def cut_ids(self, text: str, max_length: int) -> tuple[tuple[int, ...], int]:
        """The same, of a text cut so that it fits, and how many tokens that took."""
        ids = tuple(self.hf(text, truncation=True, max_length=max_length)["input_ids"])
        return ids, len(self.text_ids(text)) - len(ids) if len(ids) == max_length else 0


def _load(directory: Path, *, chat: bool = True) -> Any:
    """The tokenizer with a padding token and, where there is a chat template, thinking switched off.

    A copy of the one that this process has read, while its files stay as they are: a sweep's trials follow each other
    in one process.

    Args:
        directory: Where it lies.
        chat: Whether there must be one chat template and an end-of-sequence token.
    """
    files = (path for pattern in TOKENIZER_FILES for path in directory.glob(pattern))
    state = tuple(sorted((path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in files))
    return copy.deepcopy(_read(directory, chat, state))


@lru_cache(maxsize=2)
def _read(directory: Path, chat: bool, state: tuple[tuple[str, int, int], ...]) -> Any:
    del state  # with other files it is another tokenizer
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(directory)
    except Exception as error:  # the tokenizers library raises a plain Exception for a malformed file
        raise ModelError(f"{directory}: no tokenizer can be loaded from here ({error}).") from error
    try:
        template = tokenizer.get_chat_template()
    except ValueError as error:
        if not chat:
            tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
            return tokenizer
        raise ModelError(
            f"{directory}: the tokenizer has no chat template; use an instruction-tuned model or add one."
        ) from error
    if tokenizer.eos_token_id is None:
        raise ModelError(f"{directory}: the tokenizer has no end-of-sequence token.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    switch = NO_THINKING if re.search(r"\benable_thinking\b", template) and NO_THINKING not in template else ""
    tokenizer.chat_template = switch + template
    return tokenizer


def _generation_stops(directory: Path) -> tuple[int, ...]:
    """What the model's own generation settings stop at; none where it has none."""
    path = directory / "generation_config.json"
    if not path.is_file():
        return ()
    stops = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
    return tuple(stops) if isinstance(stops, list) else () if stops is None else (stops,)
