"""Micro-batches without padding: rows one behind the other in a single sequence, each seen only by itself.

Rows that begin alike, such as with one system message, have that beginning computed once: the hidden states of equal
tokens after equal tokens are equal, and the gradients of all rows that use them add up. Nothing is approximated.

Shape legend: T tokens of the flat sequence, H query heads, G key and value heads, D size of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from luthier.trainers.tokens import IGNORE, Encoded

MIN_SHARED = 8
"""Rows are laid out behind one beginning only if it has this many tokens: shorter ones save less than they cost."""


@dataclass(frozen=True)
class Group:
    """Rows behind one beginning.

    Attributes:
        shared: Tokens of the beginning, which lies first; 0 where the group is a row by itself.
        own: Tokens of each row that follow the beginning; the rows lie one behind the other.
    """

    shared: int
    own: tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """Where the rows lie in a flat sequence of T tokens, group by group."""

    groups: tuple[Group, ...]

    @property
    def num_computed(self) -> int:
        """T: tokens that the model runs over."""
        return sum(group.shared + sum(group.own) for group in self.groups)

    @property
    def num_tokens(self) -> int:
        """Tokens of the rows, a shared beginning counted for each."""
        return sum(group.shared * len(group.own) + sum(group.own) for group in self.groups)

    @cached_property
    def segments(self) -> tuple[tuple[int, int, int, int], ...]:
        """What attends to what: (start, end, first, last) says that tokens start:end see first:last and, causally,
        themselves. They cover the T tokens in order."""
        found, at = [], 0
        for group in self.groups:
            first, last = at, at + group.shared
            if group.shared:
                found.append((first, last, first, first))
            at = last
            for own in group.own:
                found.append((at, at + own, first, last))
                at += own
        return tuple(found)

    @property
    def row_spans(self) -> tuple[tuple[int, int], ...]:
        """Where each row's own tokens lie."""
        beginnings = {(first, last) for _, _, first, last in self.segments if last > first}
        return tuple((start, end) for start, end, _, _ in self.segments if (start, end) not in beginnings)


@dataclass(frozen=True)
class FlatRows:
    """Rows laid out flat, before they become a batch.

    Attributes:
        rows: The rows in the order in which they lie.
        layout: Where they lie.
        input_ids: T token ids.
        position_ids: T positions, each counted from the beginning of its row.
        labels: T labels; IGNORE at the first token after anything that another row ends with.
    """

    rows: tuple[Encoded, ...]
    layout: Layout
    input_ids: list[int]
    position_ids: list[int]
    labels: list[int]


def lay_out(rows: Sequence[Encoded], *, share: bool) -> FlatRows:
    """Lay rows out flat, in their order, but for rows that share a beginning: those follow the first of them.

    Args:
        rows: At least one, none of them empty.
        share: Compute a common beginning once. Wrong where equal tokens may get unlike hidden states: under dropout.
    """
    flat = FlatRows((), Layout(()), [], [], [])
    laid: list[Encoded] = []
    groups: list[Group] = []
    for members in _grouped(rows) if share else [[row] for row in rows]:
        shared = _common_beginning(members) if len(members) > 1 else 0
        flat.input_ids.extend(members[0].input_ids[:shared])
        flat.position_ids.extend(range(shared))
        flat.labels.extend([IGNORE] * shared)
        for row in members:
            flat.input_ids.extend(row.input_ids[shared:])
            flat.position_ids.extend(range(shared, len(row.input_ids)))
            # Nothing precedes a row's first token, and a first own token has no loss: see _common_beginning.
            flat.labels.extend((IGNORE, *row.labels[shared + 1 :]))
        groups.append(Group(shared, tuple(len(row.input_ids) - shared for row in members)))
        laid.extend(members)
    return FlatRows(tuple(laid), Layout(tuple(groups)), flat.input_ids, flat.position_ids, flat.labels)


def _grouped(rows: Sequence[Encoded]) -> list[list[Encoded]]:
    """Rows by their first MIN_SHARED tokens, none of which may carry loss; other rows alone."""
    groups: dict[object, list[Encoded]] = {}
    for number, row in enumerate(rows):
        fit = len(row.input_ids) > MIN_SHARED and _unlearnt(row) >= MIN_SHARED
        groups.setdefault(row.input_ids[:MIN_SHARED] if fit else number, []).append(row)
    return list(groups.values())


def _common_beginning(rows: Sequence[Encoded]) -> int:
    """Tokens that all rows begin with, so few that each row's next token is its own and carries no loss.

    A token's loss belongs to the position before it, which would otherwise be the shared one: that has one prediction
    to make, not one for each row.
    """
    differing = (
        place
        for place, tokens in enumerate(zip(*(row.input_ids for row in rows), strict=False))
        if len(set(tokens)) > 1
    )
    common = next(differing, min(len(row.input_ids) for row in rows))
    return min(common, *(min(_unlearnt(row), len(row.input_ids) - 1) for row in rows))


def _unlearnt(row: Encoded) -> int:
    """Tokens before the last one that precedes any loss: labels[0 : _unlearnt + 1] are all IGNORE."""
    first = next((place for place, label in enumerate(row.labels) if place and label != IGNORE), len(row.labels))
    return first - 1


@dataclass(frozen=True)
class VarlenIndex:
    """A layout as the variable-length kernels of GPUs take it.

    Attributes:
        keys: Which of the T keys each segment sees, one segment after the other.
        cu_q: Where the segments' queries begin, and the end.
        cu_k: Where the segments' keys begin in ``keys``, and the end.
        max_q: Longest segment.
        max_k: Most keys that a segment sees.
    """

    keys: torch.Tensor
    cu_q: torch.Tensor
    cu_k: torch.Tensor
    max_q: int
    max_k: int


def varlen_index(layout: Layout, device: torch.device) -> VarlenIndex:
    """Put a layout on a device."""
    seen = [[*range(first, last), *range(start, end)] for start, end, first, last in layout.segments]
    num_q = [0, *(end - start for start, end, _, _ in layout.segments)]
    num_k = [0, *map(len, seen)]
    keys = torch.tensor([key for keys in seen for key in keys], device=device)
    cu_q, cu_k = (torch.tensor(n, device=device).cumsum(0).to(torch.int32) for n in (num_q, num_k))
    return VarlenIndex(keys, cu_q, cu_k, max(num_q), max(num_k))
