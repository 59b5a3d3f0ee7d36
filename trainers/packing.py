"""Packing: rows gathered into packs of at most ``max_length`` tokens, so that every micro-batch is equally full.

The packs of a split are made once, from all lengths; which packs meet at a step is then a matter of
:class:`luthier.trainers.batches.StepPlan`, as it is for single rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch

from luthier.trainers.batches import StepPlan
from luthier.trainers.mixture import Mixture


def best_fit_decreasing(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Bins of item numbers: the longest item first, each into the fullest bin that still has room for it.

    Best-fit decreasing needs at most 11/9 of the fewest possible bins plus 4 (Johnson 1974); on rows of text far less.
    Takes O(n log n + n capacity/64).

    Args:
        lengths: Size of each item, at most ``capacity``.
        capacity: Size of a bin.

    Returns:
        Bins in the order in which they were opened; items in the order in which they were put in.
    """
    bins: list[list[int]] = []
    by_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    rooms = 0  # bit r: there is a bin with room for r more
    for item in sorted(range(len(lengths)), key=lambda number: (-lengths[number], number)):
        length = lengths[item]
        enough = rooms >> length
        if enough:
            room = length + (enough & -enough).bit_length() - 1
            number = by_room[room].pop()
            if not by_room[room]:
                rooms ^= 1 << room
        else:
            room, number = capacity, len(bins)
            bins.append([])
        bins[number].append(item)
        by_room[room - length].append(number)
        rooms |= 1 << (room - length)
    return bins


class Plan(Protocol):
    """Which rows each worker sees at each step."""

    @property
    def accumulation(self) -> int:
        """Micro-steps of each worker per optimizer step."""
        ...

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one epoch."""
        ...

    def micro_batches(self, step: int, rank: int) -> list[list[int]]:
        """Row numbers of one worker's micro-batches at an optimizer step (counted from 0)."""
        ...


class PackedPlan:
    """Rows by packs: a micro-batch holds whole packs, ``micro_batch`` of them.

    Args:
        lengths: Tokens of each row.
        max_length: Tokens that a pack holds.
        world_size: Workers.
        micro_batch: Packs per worker and micro-step.
        accumulation: Micro-steps per optimizer step.
        seed: Seed of the shuffle.
        at_work: See :class:`StepPlan`.
        splits: See :class:`StepPlan`.
        tasks: The task of each row, where tasks have weights; a pack then holds rows of one task.
        weights: Of each task; the shares are of packs.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        max_length: int,
        world_size: int,
        micro_batch: int,
        accumulation: int,
        seed: int,
        *,
        at_work: int | None = None,
        splits: int = 1,
        tasks: Sequence[str] = (),
        weights: Mapping[str, float] | None = None,
    ) -> None:
        # Rows of equal length are put together by chance, not by their place in the file.
        order = torch.randperm(len(lengths), generator=torch.Generator().manual_seed(seed)).tolist()
        groups = [[row for row in order if tasks[row] == name] for name in weights] if weights else [order]
        self.packs = [pack for rows in groups for pack in _packs(rows, lengths, max_length)]
        mixture = Mixture([tasks[pack[0]] for pack in self.packs], weights, seed) if weights else None
        shape = (world_size, micro_batch, accumulation, seed)
        self._plan = StepPlan(len(self.packs), *shape, at_work=at_work, splits=splits, mixture=mixture)

    @property
    def accumulation(self) -> int:
        """See :class:`Plan`."""
        return self._plan.accumulation

    @property
    def steps_per_epoch(self) -> int:
        """See :class:`Plan`."""
        return self._plan.steps_per_epoch

    def micro_batches(self, step: int, rank: int) -> list[list[int]]:
        """See :class:`Plan`."""
        parts = self._plan.micro_batches(step, rank)
        return [[row for pack in part for row in self.packs[pack]] for part in parts]


def _packs(rows: Sequence[int], lengths: Sequence[int], max_length: int) -> list[list[int]]:
    bins = best_fit_decreasing([lengths[row] for row in rows], max_length)
    return [[rows[place] for place in places] for places in bins]
