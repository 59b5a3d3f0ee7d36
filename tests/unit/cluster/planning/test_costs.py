"""Operations, hours and money."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from luthier.cluster.planning.choosing import GPU_GIB
from luthier.cluster.planning.costs import TFLOPS, Range, cost, hours, read_prices, training_flops
from luthier.cluster.planning.shapes import Shapes
from luthier.config.train import TrainConfig
from luthier.errors import ConfigError
from tests.unit.cluster.planning.test_plan import SHAPES


def test_full_fine_tuning_takes_six_operations_a_token_and_weight_and_lora_four() -> None:
    big: Shapes = {name: tuple(8 * size for size in shape) for name, shape in SHAPES.items()}
    untied: Shapes = {**big, "lm_head.weight": (800, 128)}
    products = [shape for name, shape in untied.items() if len(shape) == 2 and "embed" not in name]
    number = sum(rows * columns for rows, columns in products)
    short = {"tokens": 1000, "row_tokens": 1.0}
    full = training_flops(untied, TrainConfig(method="full"), **short)  # type: ignore[arg-type]
    lora = training_flops(untied, TrainConfig(lora_r=1), **short)  # type: ignore[arg-type]
    assert full == pytest.approx(6 * number * 1000, rel=0.05)
    assert lora == pytest.approx(4 * number * 1000, rel=0.05)
    again = training_flops(untied, TrainConfig(method="full", gradient_checkpointing=True), **short)  # type: ignore[arg-type]
    assert again == pytest.approx(8 / 6 * full, rel=0.01)


def test_attention_grows_with_the_rows_length() -> None:
    train = TrainConfig(method="full")
    short, long = (training_flops(SHAPES, train, tokens=100, row_tokens=length) for length in (10.0, 1010.0))
    assert long - short == 100 * 3 * 2 * 16 * 1000  # tokens, passes, causal, width, length


def test_hours_and_cost_are_ranges_of_two_digits() -> None:
    taken = hours(10**18, 1e14, (0.25, 0.5))
    assert (taken.low, taken.high) == (5.6, 11.0)
    prices = read_prices()
    charged = cost(taken, prices, accelerator="H100", units=8)
    assert charged is not None and 0 < charged.low < charged.high
    assert cost(taken, prices, accelerator="NEW", units=1) is None


def test_every_accelerator_has_memory_speed_and_an_example_price() -> None:
    prices = read_prices()
    assert prices.as_of
    assert set(TFLOPS) - {"A100"} == set(prices.accelerators) and set(TFLOPS) == set(GPU_GIB)


def test_own_prices_are_read_and_checked(tmp_path: Path) -> None:
    file = tmp_path / "prices.yaml"
    own = {"currency": "EUR", "as_of": "today", "accelerators": {"H100": {"low": 1, "high": 2}}}
    file.write_text(json.dumps({**own, "cpu_core": {"low": 0.01, "high": 0.02}}))
    assert cost(Range(low=1, high=2), read_prices(file), accelerator="H100", units=2) == Range(low=2, high=8)
    file.write_text(json.dumps(own))
    with pytest.raises(ConfigError, match="cpu_core"):
        read_prices(file)
    with pytest.raises(ConfigError, match="--prices"):
        read_prices(tmp_path / "none.yaml")
