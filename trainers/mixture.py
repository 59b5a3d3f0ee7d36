"""What an epoch is made of where tasks have weights.

Shape legend: N items (rows or packs), of which each belongs to one task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch


class Mixture:
    """Epochs of as many items as there are, in which each task has its share.

    A task deals out its items in shuffled rounds, none a second time before all have come once; rounds go on from one
    epoch to the next, so that a task with a small share is still seen whole.

    Args:
        tasks: The task of each of the N items.
        weights: Of each task, relative to each other.
        seed: Seed of the rounds.
    """

    def __init__(self, tasks: Sequence[str], weights: Mapping[str, float], seed: int) -> None:
        self._items = {name: torch.tensor([n for n, task in enumerate(tasks) if task == name]) for name in weights}
        self._items = {name: items for name, items in self._items.items() if len(items)}
        self.shares = _shares({name: weights[name] for name in self._items}, len(tasks))
        self._seed = seed

    def epoch(self, number: int) -> torch.Tensor:
        """The N items of an epoch (counted from 0), task by task."""
        return torch.cat([self._deal(place, name, number) for place, name in enumerate(self._items)])

    def _deal(self, place: int, name: str, epoch: int) -> torch.Tensor:
        items, share = self._items[name], self.shares[name]
        start, end = epoch * share, (epoch + 1) * share
        first, last = start // len(items), (end - 1) // len(items)
        rounds = torch.cat([items[self._shuffled(place, number, len(items))] for number in range(first, last + 1)])
        offset = start - first * len(items)
        return rounds[offset : offset + share]

    def _shuffled(self, place: int, number: int, size: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed((self._seed * 1_000_003 + number) * 1_009 + place)
        return torch.randperm(size, generator=generator)


def _shares(weights: Mapping[str, float], total: int) -> dict[str, int]:
    """Whole numbers in the proportion of the weights that sum to ``total``, by largest remainder; at least 1 each."""
    exact = {name: weight / sum(weights.values()) * total for name, weight in weights.items()}
    shares = {name: max(1, int(share)) for name, share in exact.items()}
    by_remainder = sorted(exact, key=lambda name: shares[name] - exact[name])
    missing = total - sum(shares.values())
    for number in range(abs(missing)):
        name = by_remainder[number % len(by_remainder)] if missing > 0 else max(shares, key=shares.__getitem__)
        shares[name] += 1 if missing > 0 else -1
    return shares
