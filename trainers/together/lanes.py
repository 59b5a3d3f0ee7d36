"""Threads that each take some of the runs through the one base.

On a CPU a layer of a small model is done in a millisecond or two, so two threads that share each product often wait: for
each other, and for Python between products. Threads with whole runs of their own do not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")

MAX_UNEVEN = 1.25
"""Tokens of the fullest lane over their mean, above which all threads share each product instead."""


class Lanes:
    """Deals work out to threads.

    Args:
        threads: Of this process.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, "lane", initializer=torch.set_num_threads, initargs=(1,))

    def deal(self, sizes: Sequence[int]) -> list[list[int]]:
        """Places of the pieces of work that each lane gets: one lane where they can't be shared out evenly.

        Args:
            sizes: How much work each piece is.
        """
        lanes: list[list[int]] = [[] for _ in range(self._threads)]
        loads = [0] * self._threads
        for place in sorted(range(len(sizes)), key=sizes.__getitem__, reverse=True):
            lightest = loads.index(min(loads))
            lanes[lightest].append(place)
            loads[lightest] += sizes[place]
        if max(loads) * self._threads > MAX_UNEVEN * sum(sizes):
            return [list(range(len(sizes)))]
        return [lane for lane in lanes if lane]

    def run(self, lanes: Sequence[list[int]], work: Callable[[list[int]], T]) -> list[T]:
        """Do each lane's work; several lanes have a thread each, a single one has all."""
        if len(lanes) == 1:
            return [work(lanes[0])]
        return list(self._pool.map(work, lanes))
