"""Adapters of an engine, and the count of loads."""

from __future__ import annotations

from luthier.serving.held import HeldAdapters


def test_a_load_is_counted_when_the_engine_has_taken_it_and_once() -> None:
    counted: list[tuple[str, bool]] = []
    held = HeldAdapters(2, lambda name, loaded: counted.append((name, loaded)))
    held.used("a@1", 1)
    held.used("a@1", 1)
    held.refused("bad@1")
    held.refused("bad@1")
    assert counted == [("a@1", True), ("bad@1", False), ("bad@1", False)]
    assert held.names == ("a@1",)


def test_the_one_used_longest_ago_makes_room_and_is_loaded_anew_when_asked_again() -> None:
    counted: list[str] = []
    held = HeldAdapters(2, lambda name, loaded: counted.append(name))
    for name, load in (("a", 1), ("b", 2), ("a", 1), ("c", 3), ("b", 4)):
        held.used(name, load)
    assert held.names == ("c", "b")
    assert counted == ["a", "b", "c", "b"]
