"""How much of the room that training computes is filled with tokens, in packs and with padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from luthier.trainers.packing import best_fit_decreasing

_MOST_PACKED = 500_000
"""Sequences that are packed to see how it goes; of more, every so many-th: the share hardly changes with their number."""


@dataclass(frozen=True)
class Room:
    """What training sequences would take.

    Attributes:
        sequences: How many were put together.
        tokens: Of all of them.
        packs: Packs of ``data.max_length`` tokens that ``train.packing`` makes of them.
        packed: Share of the packs' room that is filled.
        padded: Share that is filled without packing, each micro-batch of rows drawn by chance padded to its longest.
        packing: Whether the config packs.
    """

    sequences: int
    tokens: int
    packs: int
    packed: float
    padded: float
    packing: bool


def room_of(lengths: Sequence[int], max_length: int, batch_rows: int, seed: int, *, packing: bool) -> Room:
    """Pack sequences as training does, and pad them as it does.

    Args:
        lengths: Tokens of each sequence; at least one.
        max_length: Tokens of a pack.
        batch_rows: Rows of a micro-batch.
        seed: Of the draw.
        packing: Whether the config packs.
    """
    some = list(lengths[:: -(-len(lengths) // _MOST_PACKED)])
    packs = len(best_fit_decreasing(some, max_length))
    drawn = np.random.default_rng(seed).permutation(np.asarray(some))
    batches = [drawn[start : start + batch_rows] for start in range(0, len(drawn), batch_rows)]
    slots = sum(int(batch.max()) * len(batch) for batch in batches)
    tokens = sum(some)
    return Room(len(some), tokens, packs, tokens / (packs * max_length), tokens / slots, packing)
