"""Whether engines find room beside those that they replace."""

from __future__ import annotations

from dataclasses import replace

import pytest

from luthier.config.serve import ServeConfig
from luthier.serving.room import fits_beside
from luthier.serving.spec import EngineSpec


def engine(number: int = 1, cpus: float = 1.0) -> EngineSpec:
    serve = ServeConfig(num_replicas=number, num_cpus=cpus)
    return EngineSpec("base", "/base", "/base", {}, 0, serve, gpu=False)


@pytest.mark.parametrize(
    ("free", "to_be", "running", "fits"),
    [(1, 1, 1, True), (0.5, 1, 1, False), (1, 2, 1, False), (2, 2, 1, True), (1, 1, 2, True), (1, 2, 2, True)],
)
def test_one_more_than_there_are_to_be_must_fit(free: float, to_be: int, running: int, fits: bool) -> None:
    assert fits_beside({"CPU": free}, [engine(to_be)], {"base": running}) is fits


def test_of_several_engines_the_largest_must_fit_once_more() -> None:
    engines = [engine(), replace(engine(cpus=3), model_id="large")]
    running = {"base": 1, "large": 1}
    assert fits_beside({"CPU": 3}, engines, running)
    assert not fits_beside({"CPU": 2}, engines, running)
    assert not fits_beside({"CPU": 5}, engines, {"base": 1})


def test_a_kind_of_resource_that_is_not_there_does_not_fit() -> None:
    assert not fits_beside({"CPU": 8}, [replace(engine(), gpu=True)], {"base": 1})
