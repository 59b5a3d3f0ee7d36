"""Rows as training sees them: which of their text carries loss, by the very tokens and labels that are learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from rich.text import Text

from luthier.trainers.tokens import IGNORE, Encoded

_LEARNT = "bold green"
_GIVEN = "dim"


@dataclass(frozen=True)
class Stretch:
    """Tokens that follow each other, all with loss or all without.

    Attributes:
        text: What they say, special tokens included.
        learnt: Whether they carry loss.
        num_tokens: How many they are.
    """

    text: str
    learnt: bool
    num_tokens: int


@dataclass(frozen=True)
class Shown:
    """A row.

    Attributes:
        row_id: Its id.
        stretches: All of its tokens that training keeps.
        label: The class that is learned in place of tokens; None: there is none.
    """

    row_id: str
    stretches: tuple[Stretch, ...]
    label: str | None = None

    @property
    def num_tokens(self) -> int:
        """All its tokens."""
        return sum(one.num_tokens for one in self.stretches)

    @property
    def num_learnt(self) -> int:
        """Those with loss."""
        return sum(one.num_tokens for one in self.stretches if one.learnt)

    @property
    def title(self) -> str:
        """What is said of it."""
        learnt = f"class {self.label}" if self.label else f"{self.num_learnt} with loss"
        return f"{self.row_id}: {self.num_tokens} tokens, {learnt}"

    def text(self) -> Text:
        """For the terminal: what carries loss is bright, the rest dim."""
        shown = Text(f"{self.title}\n", style="bold")
        for one in self.stretches:
            shown.append(one.text, style=_LEARNT if one.learnt else _GIVEN)
        return shown


def show(row: Encoded, hf: Any, classes: Sequence[str] = ()) -> Shown:
    """A row's tokens as text.

    Args:
        row: The row, as it is kept for training.
        hf: The transformers tokenizer.
        classes: Labels of a classifier, which learns one for the row instead of tokens.
    """
    if classes:
        return Shown(row.row_id, _stretches(row.input_ids, [False] * len(row.input_ids), hf), classes[row.labels[-1]])
    # The first token has no token before it that could predict it.
    learnt = [place > 0 and label != IGNORE for place, label in enumerate(row.labels)]
    return Shown(row.row_id, _stretches(row.input_ids, learnt, hf))


def _stretches(ids: Sequence[int], learnt: Sequence[bool], hf: Any) -> tuple[Stretch, ...]:
    """Each stretch is what its tokens add to the text before them: a tokenizer may write a token otherwise at a beginning."""
    found: list[Stretch] = []
    end, before = 0, ""
    for carries, group in groupby(learnt):
        num = sum(1 for _ in group)
        end += num
        text = str(hf.decode(list(ids[:end]), skip_special_tokens=False, clean_up_tokenization_spaces=False))
        found.append(Stretch(text[len(before) :], carries, num))
        before = text
    return tuple(found)
