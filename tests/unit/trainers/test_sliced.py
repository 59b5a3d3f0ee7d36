"""Sliced adapters against peft's own layers, and token losses against torch's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn import functional

from luthier.trainers.head_loss import token_cross_entropies
from luthier.trainers.together.sliced import Pair, Slice, Slices, slice_layers, sliced_linear

INPUTS, OUTPUTS = 12, 20
RUNS = ((3, 16.0, 5), (8, 4.0, 1), (1, 2.0, 7))
"""Rank, alpha and tokens of each run."""


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def base_layer(bias: bool) -> nn.Linear:
    layer = nn.Linear(INPUTS, OUTPUTS, bias=bias)
    nn.init.normal_(layer.weight, generator=generator())
    return layer.requires_grad_(False)


def by_peft(layer: nn.Linear, rank: int, alpha: float) -> Any:
    """The layer with an adapter that does something, as peft runs it."""
    copy = nn.Sequential(nn.Linear(INPUTS, OUTPUTS, bias=layer.bias is not None))
    copy[0].load_state_dict(layer.state_dict())
    model: Any = get_peft_model(copy, LoraConfig(r=rank, lora_alpha=alpha, target_modules=["0"]))  # type: ignore[arg-type]
    adapted = model.base_model.model[0]
    nn.init.normal_(adapted.lora_B["default"].weight, generator=generator(rank))
    return adapted


def pair_of(adapted: Any) -> Pair:
    a, b = (nn.Parameter(weights["default"].weight.detach().clone()) for weights in (adapted.lora_A, adapted.lora_B))
    return Pair(a, b, adapted.scaling["default"])


@pytest.mark.parametrize("bias", [False, True])
def test_each_slice_has_the_output_and_the_gradients_of_a_layer_with_that_adapter_alone(bias: bool) -> None:
    layer = base_layer(bias)
    adapted = [by_peft(layer, rank, alpha) for rank, alpha, _ in RUNS]
    pairs = [pair_of(one) for one in adapted]
    lengths = [tokens for _, _, tokens in RUNS]
    x = torch.randn(1, sum(lengths), INPUTS, generator=generator(1), requires_grad=True)
    weights = torch.randn(1, sum(lengths), OUTPUTS, generator=generator(2))
    ends = torch.tensor(lengths).cumsum(0).tolist()
    slices = [slice(end - length, end) for end, length in zip(ends, lengths, strict=True)]
    out = sliced_linear(x, layer.weight, layer.bias, list(zip(slices, pairs, strict=True)))
    (out * weights).sum().backward()  # type: ignore[no-untyped-call]
    for tokens, pair, plain in zip(slices, pairs, adapted, strict=True):
        own = x.detach()[:, tokens].requires_grad_()
        expected = plain(own)
        (expected * weights[:, tokens]).sum().backward()
        torch.testing.assert_close(out[:, tokens], expected)
        assert x.grad is not None
        torch.testing.assert_close(x.grad[:, tokens], own.grad)
        torch.testing.assert_close(pair.a_RI.grad, plain.lora_A["default"].weight.grad)
        torch.testing.assert_close(pair.b_OR.grad, plain.lora_B["default"].weight.grad)


def test_gradients_agree_with_finite_differences() -> None:
    layer = base_layer(bias=True).double()
    a, b = (torch.randn(*shape, dtype=torch.float64, generator=generator(3)) for shape in ((2, INPUTS), (OUTPUTS, 2)))
    x = torch.randn(6, INPUTS, dtype=torch.float64, generator=generator(4))

    def run(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        pair: Any = Pair(a, b, 0.7)  # type: ignore[arg-type]
        return sliced_linear(x, layer.weight, layer.bias, [(slice(2, 5), pair)])

    assert torch.autograd.gradcheck(run, tuple(one.requires_grad_() for one in (x, a, b)))


def test_a_layer_that_sees_only_some_of_the_tokens_is_refused() -> None:
    layer = base_layer(bias=False)
    halves = [(slice(0, 4), pair_of(by_peft(layer, 2, 4.0))), (slice(4, 8), pair_of(by_peft(layer, 2, 4.0)))]
    with pytest.raises(RuntimeError, match="is given 7 tokens only"):
        sliced_linear(torch.zeros(7, INPUTS), layer.weight, None, halves)


def test_layers_are_themselves_outside_of_a_block_and_for_runs_without_a_pair_there() -> None:
    base = nn.Sequential(base_layer(bias=False), nn.Linear(OUTPUTS, OUTPUTS).requires_grad_(False))
    pair = pair_of(by_peft(base_layer(bias=False), 4, 8.0))
    x = torch.randn(5, INPUTS, generator=generator(5))
    plain = base(x)
    slices = Slices()
    slice_layers(base, ["0"], slices)
    slice_layers(base, ["0", "1"], slices)
    torch.testing.assert_close(base(x), plain)
    with slices.set([Slice(slice(0, 2), {"0": pair}), Slice(slice(2, 5), {})]):
        found = base(x)
    assert not torch.allclose(found[:2], plain[:2])
    torch.testing.assert_close(found[2:], plain[2:])
    torch.testing.assert_close(base(x), plain)


def test_token_losses_are_torchs_however_they_are_weighted() -> None:
    hidden_NH = torch.randn(9, 6, generator=generator(), requires_grad=True)
    weight_VH, bias_V = torch.randn(11, 6, generator=generator(1)), torch.randn(11, generator=generator(2))
    targets_N = torch.randint(0, 11, (9,), generator=generator(3))
    scale_N = torch.rand(9, generator=generator(4))
    expected_N = functional.cross_entropy(functional.linear(hidden_NH, weight_VH, bias_V), targets_N, reduction="none")
    (expected,) = torch.autograd.grad((expected_N * scale_N).sum(), hidden_NH)
    losses_N = token_cross_entropies(hidden_NH, weight_VH, bias_V, targets_N)
    (found,) = torch.autograd.grad((losses_N * scale_N).sum(), hidden_NH)
    torch.testing.assert_close(losses_N, expected_N)
    torch.testing.assert_close(found, expected)
