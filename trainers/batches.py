"""Which rows each worker sees at each step, and how they become tensors.

Shape legend: B rows of the micro-batch, S longest sequence in it, N rows of the split. In a flat micro-batch (see
:mod:`luthier.trainers.flat`) B is 1 and S all tokens of its rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from luthier.trainers.flat import Layout, lay_out
from luthier.trainers.mixture import Mixture
from luthier.trainers.tokens import IGNORE, Encoded

GROUPED_BATCHES = 50
"""Steps' worth of rows that are sorted by length together, as in transformers' ``group_by_length``."""


@dataclass(frozen=True)
class Batch:
    """One micro-batch: padded on the left, so that answers, which end rows, line up; or flat, without padding.

    Attributes:
        row_ids: Ids of the rows, in the order in which they lie (none when the step ran short).
        input_ids_BS: Token ids.
        attention_mask_BS: 1 for tokens, 0 for padding.
        position_ids_BS: Position of each token in its row.
        labels_BS: Token to predict at each position, or IGNORE.
        num_loss_tokens: Tokens with loss.
        layout: Where the rows lie in a flat micro-batch; None for a padded one.
    """

    row_ids: tuple[str, ...]
    input_ids_BS: torch.Tensor
    attention_mask_BS: torch.Tensor
    position_ids_BS: torch.Tensor
    labels_BS: torch.Tensor
    num_loss_tokens: int
    layout: Layout | None = None

    @property
    def num_tokens(self) -> int:
        """Tokens of the rows, without padding."""
        return int(self.attention_mask_BS.sum()) if self.layout is None else self.layout.num_tokens

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        return replace(
            self,
            input_ids_BS=self.input_ids_BS.to(device),
            attention_mask_BS=self.attention_mask_BS.to(device),
            position_ids_BS=self.position_ids_BS.to(device),
            labels_BS=self.labels_BS.to(device),
        )


class StepPlan:
    """The order of rows for a world of workers: a pure function of seed, epoch and step.

    Args:
        num_rows: Rows of the split.
        world_size: Workers.
        micro_batch: Rows per worker and micro-step.
        accumulation: Micro-steps per optimizer step.
        seed: Seed of the shuffle.
        lengths_N: Tokens of each row, to learn from rows of like length together; None: any rows together.
        at_work: Workers that are there, each of which then runs more micro-steps; None: all. Which rows a step sees
            does not depend on it.
        splits: Into how many micro-steps each is divided, because a whole one did not fit into memory.
        mixture: What an epoch is made of where tasks have weights; None: every row once.
    """

    def __init__(
        self,
        num_rows: int,
        world_size: int,
        micro_batch: int,
        accumulation: int,
        seed: int,
        lengths_N: torch.Tensor | None = None,
        *,
        at_work: int | None = None,
        splits: int = 1,
        mixture: Mixture | None = None,
    ) -> None:
        self.num_rows = num_rows
        self.world_size = at_work or world_size
        self._num_slots = world_size * accumulation * splits
        self._global_batch = world_size * micro_batch * accumulation
        self._seed = seed
        self._lengths_N = lengths_N
        self._mixture = mixture
        self._kept: tuple[int, torch.Tensor] | None = None

    @property
    def accumulation(self) -> int:
        """Micro-steps of each worker per optimizer step."""
        return math.ceil(self._num_slots / self.world_size)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of as many rows as there are; the last may hold fewer."""
        return math.ceil(self.num_rows / self._global_batch)

    def micro_batches(self, step: int, rank: int) -> list[list[int]]:
        """Row numbers of one worker's micro-batches at an optimizer step (counted from 0).

        Rows are dealt out in turn, so that workers get like lengths. In a short last step, or where the workers do not
        share the micro-steps out evenly, a worker may get an empty micro-batch, which it still runs, without loss, so
        that collective operations match.
        """
        epoch, within = divmod(step, self.steps_per_epoch)
        rows = self._order(epoch)[within * self._global_batch : (within + 1) * self._global_batch].tolist()
        slots = [rows[slot :: self._num_slots] for slot in range(self._num_slots)]
        mine = slots[rank :: self.world_size]
        return mine + [[]] * (self.accumulation - len(mine))

    def _order(self, epoch: int) -> torch.Tensor:
        """An epoch's order of row numbers; kept, as every step of the epoch reads a part of it."""
        if self._kept is None or self._kept[0] != epoch:
            generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
            order_N = torch.randperm(self.num_rows, generator=generator)
            if self._mixture is not None:
                order_N = self._mixture.epoch(epoch)[order_N]
            if self._lengths_N is not None:
                order_N = _grouped(order_N, self._lengths_N, self._global_batch, generator)
            self._kept = (epoch, order_N)
        return self._kept[1]


def _grouped(
    order_N: torch.Tensor, lengths_N: torch.Tensor, global_batch: int, generator: torch.Generator
) -> torch.Tensor:
    """A shuffled order with rows of like length side by side.

    Within stretches of GROUPED_BATCHES steps rows are sorted by length, then whole steps are shuffled: which rows meet
    and which lengths come when stay random. A short last step stays last.
    """
    stretch = global_batch * GROUPED_BATCHES
    by_length = [part[lengths_N[part].argsort(descending=True, stable=True)] for part in torch.split(order_N, stretch)]
    steps = torch.split(torch.cat(by_length), global_batch)
    num_full = len(order_N) // global_batch
    shuffled = torch.randperm(num_full, generator=generator).tolist()
    return torch.cat([*(steps[index] for index in shuffled), *steps[num_full:]])


def collate(rows: Sequence[Encoded], pad_id: int) -> Batch:
    """Pad rows on the left to the longest. No rows at all give one padding token without loss."""
    longest = max((len(row.input_ids) for row in rows), default=1)
    num_rows = max(len(rows), 1)
    input_ids_BS = torch.full((num_rows, longest), pad_id, dtype=torch.long)
    attention_mask_BS = torch.zeros((num_rows, longest), dtype=torch.long)
    labels_BS = torch.full((num_rows, longest), IGNORE, dtype=torch.long)
    for index, row in enumerate(rows):
        length = len(row.input_ids)
        input_ids_BS[index, longest - length :] = torch.tensor(row.input_ids)
        attention_mask_BS[index, longest - length :] = 1
        labels_BS[index, longest - length :] = torch.tensor(row.labels)
        labels_BS[index, longest - length] = IGNORE
    if not rows:
        attention_mask_BS[:] = 1
    position_ids_BS = (attention_mask_BS.cumsum(dim=1) - 1).clamp(min=0)
    ids = tuple(row.row_id for row in rows)
    return Batch(ids, input_ids_BS, attention_mask_BS, position_ids_BS, labels_BS, int((labels_BS != IGNORE).sum()))


def collate_flat(rows: Sequence[Encoded], pad_id: int, *, share: bool) -> Batch:
    """Lay rows out flat; see :func:`luthier.trainers.flat.lay_out`. No rows at all give one token without loss."""
    if not rows:
        return replace(collate(rows, pad_id), layout=lay_out([Encoded("", (pad_id,), (IGNORE,))], share=False).layout)
    flat = lay_out(rows, share=share)
    input_ids_BS, position_ids_BS, labels_BS = (
        torch.tensor([values]) for values in (flat.input_ids, flat.position_ids, flat.labels)
    )
    ids = tuple(row.row_id for row in flat.rows)
    mask_BS = torch.ones_like(input_ids_BS)
    num_loss_tokens = int((labels_BS != IGNORE).sum())
    return Batch(ids, input_ids_BS, mask_BS, position_ids_BS, labels_BS, num_loss_tokens, flat.layout)
