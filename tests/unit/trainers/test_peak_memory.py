"""The peak of a process's memory on a CPU."""

from __future__ import annotations

import sys

import pytest
import torch

from luthier.trainers.heap import give_back_freed
from luthier.trainers.peak_memory import PeakMemory

MIB = 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="resident sizes are read from /proc")
def test_what_was_held_for_a_while_counts_and_what_was_held_before_does_not() -> None:
    before = torch.ones(64 * MIB, dtype=torch.uint8)
    del before
    give_back_freed()
    peak = PeakMemory(torch.device("cpu"))
    held = torch.ones(96 * MIB, dtype=torch.uint8)
    del held
    give_back_freed()
    told = peak.num_bytes()
    assert told is not None and 90 * MIB < told < 130 * MIB
