"""Products of a batch's rows with the matrices of several adapters, on a CPU.

vLLM stacks the adapters that are loaded: slot ``s`` of a stack holds one adapter's matrix, padded to the largest rank. A row
of a batch is a token, and belongs to one slot or to none. vLLM's own kernels copy a slot's matrices for each row; these
multiply the rows of an adapter together, or all rows with all slots where that takes less time.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch

_ROWS_FOR_A_STEP = 200
"""A further call of torch takes about as long as multiplying so many rows with one more slot."""

_SMALL = 128
"""Up to so many, slots times rank, matrices are float32: a product of bfloat16 ones takes five times as long to begin, and
reading twice the bytes takes less than that.
"""

_MANY_ROWS = 64
"""From so many on, and from so many as there are columns, multiplying in the inputs' own type is faster."""


class Rows:
    """Which slot each row of a batch belongs to.

    Args:
        slots: A slot for each row, in the order of the batch; negative for a row without an adapter.
    """

    def __init__(self, slots: Sequence[int]) -> None:
        self.slots = slots
        self.runs: list[tuple[int, slice]] = []
        start = 0
        for slot, same in groupby(slots):
            stop = start + sum(1 for _ in same)
            if slot >= 0:
                self.runs.append((slot, slice(start, stop)))
            start = stop
        self.present = frozenset(slot for slot, _ in self.runs)
        self._masks: dict[tuple[int, torch.dtype], torch.Tensor] = {}

    def mask(self, num_slots: int, rank: int, dtype: torch.dtype) -> torch.Tensor:
        """Ones where a row meets its own slot, of shape (rows, ``num_slots * rank``)."""
        if (rank, dtype) not in self._masks:
            top = max(self.present) + 1
            own = torch.tensor(self.slots).unsqueeze(1) == torch.arange(top)
            self._masks[rank, dtype] = own.repeat_interleave(rank, dim=1).to(dtype)
        return self._masks[rank, dtype][:, : num_slots * rank]


class Stack:
    """One layer's stacked matrices, as vLLM holds and fills them: (slots, 1, rank, in) and (slots, 1, out, rank).

    The second ones are laid out so that those of several slots are one matrix without copying, and small ones become
    float32; their shapes stay. A slot that is all zeros is one whose adapter leaves this layer as it is.

    Args:
        first: What a layer's input is multiplied with; none where vLLM does that itself.
        second: What gives the output.
    """

    def __init__(self, first: torch.Tensor | None, second: torch.Tensor) -> None:
        small = second.shape[0] * second.shape[3] <= _SMALL
        with torch.inference_mode(False):
            for matrices in (first, second):
                if matrices is not None and small:
                    matrices.data = matrices.float()
            second.data = second.transpose(2, 3).contiguous().transpose(2, 3)
        self._first, self._second = first, second
        self._seen = -1
        self._filled: dict[int, bool] = {}

    @property
    def rank(self) -> int:
        """What the adapters' ranks are padded to."""
        return self._second.shape[3]

    def filled(self, slots: frozenset[int]) -> list[int]:
        """Those slots that change this layer."""
        if self._seen != self._second._version:  # an adapter was loaded
            self._seen = self._second._version
            self._filled = {}
        for slot in slots - self._filled.keys():
            self._filled[slot] = bool(self._second[slot].any())
        return [slot for slot in slots if self._filled[slot]]

    def shrink(self, inputs: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """Inputs, (rows, in), times the first matrices of slots ``start`` to ``stop``: (rows, slots * rank)."""
        assert self._first is not None, "this layer has second matrices only"
        matrices = self._first[start:stop].view((stop - start) * self.rank, -1)
        if len(inputs) < max(_MANY_ROWS, len(matrices)):
            inputs = inputs.to(matrices.dtype)
        return inputs @ matrices.to(inputs.dtype).T

    def expand_into(self, output: torch.Tensor, hidden: torch.Tensor, start: int, stop: int) -> None:
        """Add what :meth:`shrink` gave times the second matrices of the same slots, summed: (rows, out)."""
        matrices = self._second[start:stop, 0].transpose(1, 2).flatten(0, 1).to(hidden.dtype)
        common = min(output.shape[1], matrices.shape[1])  # either may be padded
        output, matrices = output[:, :common], matrices[:, :common]
        if output.dtype == hidden.dtype:
            output.addmm_(hidden, matrices)
        else:
            output += hidden @ matrices


def add_products(output: torch.Tensor, rows: Rows, inputs: torch.Tensor, stack: Stack) -> None:
    """Add each row's product with the two matrices of its slot.

    Args:
        output: What is added to, of shape (rows, out or more).
        rows: The slot of each row.
        inputs: Of shape (rows, in).
        stack: The layer's matrices.
    """
    slots = stack.filled(rows.present)
    if not slots:
        return
    top = max(slots) + 1
    if _together(rows, top):
        hidden = stack.shrink(inputs, 0, top)
        hidden *= rows.mask(top, stack.rank, hidden.dtype)
        stack.expand_into(output, hidden, 0, top)
        return
    for slot, run in rows.runs:
        if slot in slots:
            stack.expand_into(output[run], stack.shrink(inputs[run], slot, slot + 1), slot, slot + 1)


def add_expanded(output: torch.Tensor, rows: Rows, hidden: torch.Tensor, stack: Stack) -> None:
    """As :func:`add_products`, for rows that have been multiplied with the first matrix: ``hidden``, (rows, rank)."""
    slots = stack.filled(rows.present)
    for slot, run in rows.runs:
        if slot in slots:
            stack.expand_into(output[run], hidden[run], slot, slot + 1)


def _together(rows: Rows, top: int) -> bool:
    """Whether all rows with all slots below ``top`` take less time than the rows of one after the other."""
    return len(rows.runs) > 1 and len(rows.slots) * top < _ROWS_FOR_A_STEP * len(rows.runs)
