"""How runs are dealt out to threads."""

from __future__ import annotations

import threading

import pytest
import torch

from luthier.trainers.together.lanes import Lanes


def test_runs_are_shared_out_evenly_or_else_all_threads_do_each_together() -> None:
    lanes = Lanes(2)
    assert lanes.deal([40, 50, 60, 70]) == [[3, 0], [2, 1]]
    assert lanes.deal([40, 50, 60]) == [[2], [1, 0]]
    assert lanes.deal([50, 50, 50]) == [[0, 1, 2]]
    assert lanes.deal([40]) == [[0]]
    assert Lanes(1).deal([40, 50]) == [[1, 0]]


def test_lanes_work_at_the_same_time_with_a_thread_each_and_one_lane_works_here() -> None:
    lanes = Lanes(2)
    meet = threading.Barrier(2, timeout=10)

    def work(places: list[int]) -> tuple[int, int]:
        meet.wait()
        return sum(places), torch.get_num_threads()

    before = torch.get_num_threads()
    assert lanes.run([[1, 2], [3]], work) == [(3, 1), (3, 1)]
    assert torch.get_num_threads() == before
    assert lanes.run([[1, 2]], lambda places: threading.current_thread()) == [threading.current_thread()]


def test_an_error_in_a_lane_is_raised() -> None:
    def work(places: list[int]) -> None:
        raise ValueError(f"lane of {places}")

    with pytest.raises(ValueError, match=r"lane of \[0\]"):
        Lanes(2).run([[0], [1]], work)
