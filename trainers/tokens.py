"""From a conversation to token ids and a loss mask, by the model's own chat template.

Every turn's text is tokenised apart, so the tokens of a prompt in training are exactly the tokens that the same
prompt has when it is served.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.errors import ModelError
from luthier.rows import Message, Row

IGNORE = -100
"""Label of a token without loss, as in torch and transformers."""


@dataclass(frozen=True)
class Encoded:
    """One tokenised row.

    Attributes:
        row_id: Id of the row.
        input_ids: Token ids, S of them.
        labels: The token to predict at each position of ``input_ids``, or IGNORE; S of them.
        truncated: Whether tokens were cut off.
    """

    row_id: str
    input_ids: tuple[int, ...]
    labels: tuple[int, ...]
    truncated: bool

    @property
    def num_loss_tokens(self) -> int:
        """Tokens that carry loss. The first token is never predicted."""
        return sum(label != IGNORE for label in self.labels[1:])


class ChatTokenizer:
    """A tokenizer with a chat template.

    Args:
        directory: Directory of the tokenizer.

    Raises:
        ModelError: There is no tokenizer, no chat template or no end-of-sequence token.
    """

    def __init__(self, directory: Path) -> None:
        from transformers import AutoTokenizer

        try:
            self.hf: Any = AutoTokenizer.from_pretrained(directory)
        except (OSError, ValueError) as error:
            raise ModelError(f"{directory}: no tokenizer can be loaded from here ({error}).") from error
        if not self.hf.chat_template:
            raise ModelError(
                f"{directory}: the tokenizer has no chat template; use an instruction-tuned model or add one."
            )
        if self.hf.eos_token_id is None:
            raise ModelError(f"{directory}: the tokenizer has no end-of-sequence token.")
        if self.hf.pad_token_id is None:
            self.hf.pad_token = self.hf.eos_token
        self.eos_id: int = self.hf.eos_token_id
        self.pad_id: int = self.hf.pad_token_id

    def prompt_ids(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Tokens of a prompt, up to the point where the assistant begins to answer."""
        return tuple(token for text, _ in self._segments([*messages], open_end=True) for token in self._ids(text))

    def encode(self, row: Row, *, max_length: int, assistant_only_loss: bool) -> Encoded:
        """Tokenise a row with its answers.

        Args:
            row: The row.
            max_length: Tokens kept.
            assistant_only_loss: Mask all but the assistant's turns.
        """
        ids: list[int] = []
        labels: list[int] = []
        for text, is_answer in self._segments([*row.messages], open_end=False):
            segment = self._ids(text)
            ids += segment
            if is_answer:
                labels += self._until_end_of_turn(segment)
            else:
                labels += [IGNORE] * len(segment) if assistant_only_loss else segment
        return Encoded(row.row_id, tuple(ids[:max_length]), tuple(labels[:max_length]), len(ids) > max_length)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of generated tokens, special tokens left out."""
        return str(self.hf.decode(list(token_ids), skip_special_tokens=True))

    def _ids(self, text: str) -> list[int]:
        return list(self.hf(text, add_special_tokens=False)["input_ids"])

    def _until_end_of_turn(self, segment: list[int]) -> list[int]:
        """Labels of an answer: what the template writes after the end-of-turn token is not to be learnt."""
        if self.eos_id not in segment:
            return segment
        end = len(segment) - segment[::-1].index(self.eos_id)
        return segment[:end] + [IGNORE] * (len(segment) - end)

    def _segments(self, messages: list[Message], *, open_end: bool) -> list[tuple[str, bool]]:
        """The rendered conversation cut where an answer begins and ends: (text, is an assistant's answer)."""
        segments: list[tuple[str, bool]] = []
        done = ""
        for end, message in enumerate(messages):
            if message.role != "assistant":
                continue
            before = self._render(messages[:end], open_end=True)
            after = self._render(messages[: end + 1], open_end=False)
            if not (before.startswith(done) and after.startswith(before)):
                raise ModelError(
                    "the chat template rewrites earlier turns when a later one is added, so answers can't be told from "
                    "prompts; give single-turn rows or another template."
                )
            segments += [(before[len(done) :], False), (after[len(before) :], True)]
            done = after
        if open_end:
            segments.append((self._render(messages, open_end=True)[len(done) :], False))
        return segments

    def _render(self, messages: Sequence[Message], *, open_end: bool) -> str:
        turns = [message.as_dict() for message in messages]
        return str(self.hf.apply_chat_template(turns, tokenize=False, add_generation_prompt=open_end))
