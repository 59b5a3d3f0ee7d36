from __future__ import annotations

import pytest
import torch

from luthier.serving.lora_rows import Rows, Stack, add_expanded, add_products

RANK, IN, OUT, SLOTS = 4, 24, 40, 5
MIXED = [0, 0, 3, -1, 3, 1, -1, -1, 4, 4, 0, 2]


def stacked(seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    return torch.randn(SLOTS, 1, RANK, IN).to(dtype), torch.randn(SLOTS, 1, OUT, RANK).to(dtype)


def one_by_one(
    output: torch.Tensor, slots: list[int], inputs: torch.Tensor, first: torch.Tensor, second: torch.Tensor
) -> torch.Tensor:
    expected = output.clone().double()
    for row, slot in enumerate(slots):
        if slot >= 0:
            expected[row, :OUT] += second[slot, 0].double() @ (first[slot, 0].double() @ inputs[row].double())
    return expected


@pytest.mark.parametrize(
    "slots",
    [
        MIXED,
        [2],
        [-1] * 6,
        [1] * 7,
        [-1, 4],
        [0] * 300 + [1] * 2 + [-1] * 70 + [3],
        [n % 5 for n in range(70)],
    ],
    ids=["mixed", "one row", "base alone", "one adapter", "base and last slot", "long and short", "many in turn"],
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.06)])
def test_each_row_is_multiplied_with_the_matrices_of_its_slot(
    slots: list[int], dtype: torch.dtype, tolerance: float
) -> None:
    first, second = stacked(dtype=dtype)
    inputs, output = torch.randn(len(slots), IN).to(dtype), torch.randn(len(slots), OUT).to(dtype)
    expected = one_by_one(output, slots, inputs, first, second)
    unchanged = output.clone()
    with torch.inference_mode():
        add_products(output, Rows(slots), inputs, Stack(first, second))
    torch.testing.assert_close(output.double(), expected, rtol=tolerance, atol=tolerance)
    without = torch.tensor(slots) < 0
    assert torch.equal(output[without], unchanged[without])


def test_many_slots_are_multiplied_in_their_own_type() -> None:
    torch.manual_seed(0)
    first, second = torch.randn(40, 1, RANK, IN).bfloat16(), torch.randn(40, 1, OUT, RANK).bfloat16()
    slots = [n % 40 for n in range(50)]
    inputs, output = torch.randn(50, IN).bfloat16(), torch.zeros(50, OUT).bfloat16()
    expected = one_by_one(output, slots, inputs, first, second)
    add_products(output, Rows(slots), inputs, Stack(first, second))
    assert first.dtype == second.dtype == torch.bfloat16
    torch.testing.assert_close(output.double(), expected, rtol=0.06, atol=0.1)


def test_stacked_matrices_keep_their_shapes_and_values() -> None:
    first, second = stacked(dtype=torch.bfloat16)
    before = first.clone(), second.clone()
    with torch.inference_mode():
        Stack(first, second)
    assert torch.equal(first.bfloat16(), before[0])
    assert torch.equal(second.bfloat16(), before[1])
    assert second.shape == (SLOTS, 1, OUT, RANK)


def test_an_adapter_that_takes_the_slot_of_one_without_this_layer_is_seen() -> None:
    first, second = stacked()
    second[3] = 0
    stack, rows = Stack(first, second), Rows([3, 0])
    inputs = torch.randn(2, IN)
    with torch.inference_mode():
        output = torch.zeros(2, OUT)
        add_products(output, rows, inputs, stack)
        assert not output[0].any()
        assert output[1].any()
        second[3, 0, :, :2].copy_(torch.ones(OUT, 2))  # as vLLM fills a slot
        output = torch.zeros(2, OUT)
        add_products(output, rows, inputs, stack)
    expected = one_by_one(torch.zeros(2, OUT), [3, 0], inputs, first, second)
    torch.testing.assert_close(output.double(), expected, rtol=1e-4, atol=1e-4)


def test_what_either_side_is_padded_by_is_left_out() -> None:
    first, second = stacked()
    inputs = torch.randn(3, IN)
    for columns in (OUT - 8, OUT + 8):
        output = torch.zeros(3, columns)
        add_products(output, Rows([0, 1, -1]), inputs, Stack(first.clone(), second.clone()))
        expected = one_by_one(torch.zeros(3, OUT), [0, 1, -1], inputs, first, second)
        common = min(OUT, columns)
        torch.testing.assert_close(output[:, :common].double(), expected[:, :common], rtol=1e-4, atol=1e-4)
        assert not output[:, common:].any()


def test_rows_that_are_shrunk_already_are_only_expanded() -> None:
    _, second = stacked()
    hidden, output = torch.randn(len(MIXED), RANK), torch.zeros(len(MIXED), OUT)
    add_expanded(output, Rows(MIXED), hidden, Stack(None, second))
    for row, slot in enumerate(MIXED):
        expected = second[slot, 0] @ hidden[row] if slot >= 0 else torch.zeros(OUT)
        torch.testing.assert_close(output[row], expected, rtol=1e-4, atol=1e-5)
