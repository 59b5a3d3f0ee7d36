"""The chunked cross-entropy against the plain one: value, gradients, what it refuses, and what it holds in memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from luthier.trainers.batches import collate
from luthier.trainers.head_loss import Head, linear_cross_entropy
from luthier.trainers.loss import SumLoss
from luthier.trainers.tokens import IGNORE, Encoded

SHAPE: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
IDS = torch.randint(1, 64, (3, 11), generator=torch.Generator().manual_seed(0))
ROWS = [Encoded(f"r{n}", tuple(ids), (*[IGNORE] * 5, *ids[5:])) for n, ids in enumerate(IDS.tolist())]


@pytest.mark.parametrize("chunk_tokens", [1, 3, 7, 100])
@pytest.mark.parametrize("bias", [True, False])
def test_value_and_gradients_are_those_of_the_plain_loss(chunk_tokens: int, bias: bool) -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(7, 16, requires_grad=True), torch.randn(50, 16, requires_grad=True)
    bias_V = torch.randn(50, requires_grad=True) if bias else None
    targets = torch.randint(0, 50, (7,))
    inputs = [x for x in (hidden, weight, bias_V) if x is not None]
    plain = functional.cross_entropy(functional.linear(hidden, weight, bias_V), targets, reduction="sum")
    ours = linear_cross_entropy(hidden, weight, bias_V, targets, chunk_tokens)
    torch.testing.assert_close(ours, plain, rtol=1e-6, atol=1e-6)
    for mine, theirs in zip(
        torch.autograd.grad(ours * 0.3, inputs), torch.autograd.grad(plain * 0.3, inputs), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def test_in_bfloat16_it_differs_from_float32_no_more_than_the_plain_loss_does() -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(40, 64, requires_grad=True), torch.randn(500, 64, requires_grad=True)
    targets = torch.randint(0, 500, (40,))
    exact = functional.cross_entropy(hidden @ weight.t(), targets, reduction="sum")
    expected = torch.autograd.grad(exact, (hidden, weight))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain = functional.cross_entropy(functional.linear(hidden, weight).float(), targets, reduction="sum")
        ours = linear_cross_entropy(hidden, weight, None, targets, 16)
    assert ours.dtype == torch.float32
    for find in (ours, plain):
        assert float(find.detach()) == pytest.approx(float(exact.detach()), rel=2e-3)
    error = {
        name: [
            float((mine - right).norm())
            for mine, right in zip(torch.autograd.grad(loss, (hidden, weight)), expected, strict=True)
        ]
        for name, loss in (("ours", ours), ("plain", plain))
    }
    assert error["ours"] == pytest.approx(error["plain"], rel=0.5)


def models() -> dict[str, Any]:
    """Models by what their head does, and whether chunks may do it."""
    torch.manual_seed(0)
    shape = SHAPE | {"initializer_range": 0.2}
    return {
        "untied": (LlamaForCausalLM(LlamaConfig(**shape, tie_word_embeddings=False)), True),
        "tied": (LlamaForCausalLM(LlamaConfig(**shape, tie_word_embeddings=True)), True),
        "scaled": (GraniteForCausalLM(GraniteConfig(**shape, logits_scaling=8.0)), True),
        "capped": (Gemma2ForCausalLM(Gemma2Config(**shape, head_dim=8, final_logit_softcapping=3.0)), False),
        "adapter": (lora(shape, target_modules="all-linear"), True),
        "adapter on the head": (lora(shape, target_modules=["q_proj", "lm_head"]), False),
        "trained head": (lora(shape, target_modules=["q_proj"], modules_to_save=["lm_head"]), False),
    }


def lora(shape: dict[str, Any], **settings: Any) -> Any:
    model = get_peft_model(LlamaForCausalLM(LlamaConfig(**shape)), LoraConfig(task_type="CAUSAL_LM", r=4, **settings))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter.data, std=0.1)
    return model


@pytest.mark.parametrize("kind", models())
def test_every_kind_of_head_gives_its_own_loss_and_gradients(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, chunked = models()[kind]
    assert Head(model).usable() is chunked
    batch = collate(ROWS, 0)
    ours = SumLoss(model.train())(batch)
    ours.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    monkeypatch.setattr(Head, "usable", lambda self: False)
    plain = SumLoss(model)(batch)
    plain.backward()
    torch.testing.assert_close(ours.detach(), plain.detach(), rtol=1e-6, atol=1e-5)
    expected = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5, msg=name)


def test_the_model_is_left_as_it_was() -> None:
    model: Any = LlamaForCausalLM(LlamaConfig(**SHAPE)).train()
    Head(model).usable()
    assert model.training
    assert model(input_ids=IDS).logits.shape == (3, 11, 64)


def test_the_logits_of_a_batch_never_exist() -> None:
    sizes: list[int] = []

    class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            sizes.extend(x.numel() for x in (out if isinstance(out, (tuple, list)) else [out]) if torch.is_tensor(x))
            return out

    hidden, weight = torch.randn(200, 8, requires_grad=True), torch.randn(1000, 8)
    targets = torch.randint(0, 1000, (200,))
    with Watch():  # type: ignore[no-untyped-call]
        linear_cross_entropy(hidden, weight, None, targets, 10).backward()  # type: ignore[no-untyped-call]
    assert max(sizes) == 10 * 1000
    sizes.clear()
    with Watch():  # type: ignore[no-untyped-call]
        functional.cross_entropy(functional.linear(hidden, weight), targets, reduction="sum").backward()  # type: ignore[no-untyped-call]
    assert max(sizes) == 200 * 1000
