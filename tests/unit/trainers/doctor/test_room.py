"""How full packs and padded batches are."""

from __future__ import annotations

import pytest

from luthier.trainers.doctor import room
from luthier.trainers.doctor.room import room_of


def test_packs_and_batches_of_a_few_sequences() -> None:
    found = room_of([60, 40, 30, 70, 100], 100, batch_rows=5, seed=0, packing=True)
    assert (found.sequences, found.tokens, found.packs, found.packed) == (5, 300, 3, 1.0)
    assert found.padded == pytest.approx(300 / 500)


def test_batches_of_one_row_have_no_padding() -> None:
    assert room_of([60, 40, 30], 100, batch_rows=1, seed=0, packing=False).padded == 1.0


def test_of_very_many_some_are_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_MOST_PACKED", 10)
    found = room_of([50] * 95, 100, batch_rows=4, seed=0, packing=False)
    assert (found.sequences, found.packs, found.packed) == (10, 5, 1.0)
