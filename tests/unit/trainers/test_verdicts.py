"""A model is tried out once, and an unlike one is tried again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from luthier.trainers.flat_attention import NAME, why_not_flat
from luthier.trainers.head_loss import Head
from luthier.trainers.verdicts import remembered

SHAPE: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path))
    return tmp_path / "verdicts"


def model(**settings: Any) -> LlamaForCausalLM:
    return LlamaForCausalLM(LlamaConfig(**{**SHAPE, **settings}))


def num_passes(of: Any, ask: Any) -> tuple[Any, int]:
    """What is answered, and how often the model was run for it."""
    passes = []
    handle = of.register_forward_hook(lambda *_: passes.append(1))
    found = ask(of)
    handle.remove()
    return found, len(passes)


@pytest.mark.parametrize("ask", [why_not_flat, lambda one: Head(one).usable()], ids=["flat", "head"])
def test_an_equal_model_is_not_tried_again_and_is_set_up_alike(ask: Any) -> None:
    first, tried = num_passes(model(), ask)
    assert tried > 0
    again = model()
    assert num_passes(again, ask) == (first, 0)
    if ask is why_not_flat:
        assert again.config._attn_implementation == NAME
    for unlike in (model(hidden_act="gelu"), model(rope_theta=5.0), model().to(torch.bfloat16)):
        assert num_passes(unlike, ask)[1] > 0


def test_a_layer_of_another_class_or_with_its_own_forward_pass_is_tried() -> None:
    class Rounded(torch.nn.Linear):
        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return super().forward(hidden).round()

    assert remembered("any", model(), lambda: True)
    changed = model()
    changed.model.layers[0].mlp.up_proj = Rounded(32, 48, bias=False)
    assert not remembered("any", changed, lambda: False)
    patched: Any = model()
    patched.lm_head.forward = lambda hidden: hidden.tanh()
    assert not remembered("any", patched, lambda: False)


def test_a_broken_note_is_made_again_and_a_cache_that_cannot_be_written_is_no_error(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert remembered("any", model(), lambda: "why") == "why"
    (note,) = cache.iterdir()
    note.write_text("{", encoding="utf-8")
    assert remembered("any", model(), lambda: None) is None
    assert json.loads(note.read_text(encoding="utf-8"))["answer"] is None
    (cache.parent / "file").touch()
    monkeypatch.setenv("LUTHIER_CACHE", str(cache.parent / "file"))
    assert remembered("any", model(), lambda: "still asked") == "still asked"
