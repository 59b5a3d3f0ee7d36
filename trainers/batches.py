"""Which rows each worker sees at each step, and how they become tensors.

Shape legend: B rows of the micro-batch, S longest sequence in it, N rows of the split.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from luthier.trainers.tokens import IGNORE, Encoded


@dataclass(frozen=True)
class Batch:
    """One padded micro-batch. Rows are padded on the left, so that answers, which end rows, line up.

    Attributes:
        row_ids: Ids of the rows, B of them (fewer when the step ran short).
        input_ids_BS: Token ids.
        attention_mask_BS: 1 for tokens, 0 for padding.
        position_ids_BS: Position of each token in its row.
        labels_BS: Token to predict at each position, or IGNORE.
        num_loss_tokens: Tokens with loss.
    """

    row_ids: tuple[str, ...]
    input_ids_BS: torch.Tensor
    attention_mask_BS: torch.Tensor
    position_ids_BS: torch.Tensor
    labels_BS: torch.Tensor
    num_loss_tokens: int

    @property
    def num_tokens(self) -> int:
        """Tokens without padding."""
        return int(self.attention_mask_BS.sum())

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        return Batch(
            self.row_ids,
            self.input_ids_BS.to(device),
            self.attention_mask_BS.to(device),
            self.position_ids_BS.to(device),
            self.labels_BS.to(device),
            self.num_loss_tokens,
        )


@dataclass(frozen=True)
class StepPlan:
    """The order of rows for a world of workers: a pure function of seed, epoch and step.

    Attributes:
        num_rows: Rows of the split.
        world_size: Workers.
        micro_batch: Rows per worker and micro-step.
        accumulation: Micro-steps per optimizer step.
        seed: Seed of the shuffle.
    """

    num_rows: int
    world_size: int
    micro_batch: int
    accumulation: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps that see every row once; the last may hold fewer rows."""
        return math.ceil(self.num_rows / (self.world_size * self.micro_batch * self.accumulation))

    def micro_batches(self, step: int, rank: int) -> list[list[int]]:
        """Row numbers of one worker's micro-batches at an optimizer step (counted from 0).

        The rows of a short last step are dealt out evenly; a worker may then get an empty micro-batch, which it still
        runs, without loss, so that collective operations match.
        """
        epoch, within = divmod(step, self.steps_per_epoch)
        order_N = _shuffled(self.num_rows, self.seed * 1_000_003 + epoch)
        global_batch = self.world_size * self.micro_batch * self.accumulation
        rows = order_N[within * global_batch : (within + 1) * global_batch].tolist()
        num_slots = self.world_size * self.accumulation
        slots = [rows[slot::num_slots] for slot in range(num_slots)]
        return [slots[micro * self.world_size + rank] for micro in range(self.accumulation)]


@lru_cache(maxsize=2)
def _shuffled(num_rows: int, seed: int) -> torch.Tensor:
    """An epoch's order of row numbers; kept, as every step of the epoch reads a part of it."""
    return torch.randperm(num_rows, generator=torch.Generator().manual_seed(seed))


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
