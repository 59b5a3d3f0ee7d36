"""Faster layers against the ones that they replace, and which models get which micro-batches."""

from __future__ import annotations

import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from luthier.config.train import TrainConfig
from luthier.errors import ConfigError
from luthier.trainers.batches import collate
from luthier.trainers.fused import fuse_layers
from luthier.trainers.loss import SumLoss
from luthier.trainers.speed import speed_up
from luthier.trainers.tokens import IGNORE, Encoded

SHAPE: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
IDS = torch.randint(1, 64, (3, 20), generator=torch.Generator().manual_seed(0)).tolist()
ROWS = [Encoded(f"r{n}", tuple(ids), (*[IGNORE] * 12, *ids[12:])) for n, ids in enumerate(IDS)]
MODULES = 2 * 8
"""Seven linear layers with an adapter and one gated layer, in each of two decoder layers."""


def adapted(**settings: Any) -> Any:
    """A model with adapters that do something."""
    torch.manual_seed(0)
    base = LlamaForCausalLM(LlamaConfig(**SHAPE, initializer_range=0.3, attention_bias=True))
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", **settings))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter.data, std=0.2)
    return model.train()


def learn(model: Any, rows: list[Encoded], **settings: Any) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of one micro-batch."""
    lay_out = speed_up(model, TrainConfig(**settings), pad_id=0) or partial(collate, pad_id=0)
    torch.manual_seed(1)
    loss = SumLoss(model)(lay_out(rows))
    loss.backward()  # type: ignore[no-untyped-call]
    return float(loss.detach()), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def same(ours: tuple[float, dict[str, torch.Tensor]], plain: tuple[float, dict[str, torch.Tensor]]) -> None:
    assert ours[0] == pytest.approx(plain[0], rel=1e-5)
    assert ours[1].keys() == plain[1].keys()
    for name, gradient in plain[1].items():
        torch.testing.assert_close(ours[1][name], gradient, rtol=1e-3, atol=1e-4, msg=name)


def test_fused_layers_have_the_loss_and_the_gradients_of_the_layers_they_replace() -> None:
    plain = learn(adapted(), ROWS, fused_layers=False, padding_free=False)
    same(learn(adapted(), ROWS, padding_free=False), plain)
    same(learn(adapted(), ROWS), plain)
    assert fuse_layers(adapted()) == MODULES


def test_fused_layers_leave_a_model_that_is_asked_and_saved_as_it_was() -> None:
    model, fused = adapted().eval(), adapted().eval()
    fuse_layers(fused)
    ids = torch.tensor(IDS)
    with torch.no_grad():
        torch.testing.assert_close(fused(input_ids=ids).logits, model(input_ids=ids).logits)
        with fused.disable_adapter():
            torch.testing.assert_close(fused(input_ids=ids).logits, base_logits(ids))
    assert fused.state_dict().keys() == model.state_dict().keys()


def base_logits(ids: torch.Tensor) -> torch.Tensor:
    model = adapted().eval()
    with model.disable_adapter():
        logits: torch.Tensor = model(input_ids=ids).logits
    return logits


@pytest.mark.parametrize("settings", [{"lora_dropout": 0.5}, {"use_dora": True}], ids=["dropout", "dora"])
def test_adapters_of_another_kind_keep_their_own_forward_pass(settings: dict[str, Any]) -> None:
    assert fuse_layers(adapted(**settings)) == 2  # the gated layers


def test_in_bfloat16_fused_layers_err_no_more_than_plain_ones() -> None:
    exact = learn(adapted(), ROWS, fused_layers=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain, ours = learn(adapted(), ROWS, fused_layers=False), learn(adapted(), ROWS)

    def error(found: tuple[float, dict[str, torch.Tensor]]) -> float:
        return sum(float((found[1][name] - right).norm() / right.norm()) for name, right in exact[1].items())

    assert error(ours) < 1.3 * error(plain)


def test_dropout_draws_apart_for_every_row() -> None:
    begin = tuple(IDS[0])
    rows = [Encoded(str(n), (*begin, n, n), (*[IGNORE] * 21, n)) for n in range(1, 4)]
    without, with_dropout = (speed_up(adapted(lora_dropout=p), TrainConfig(), pad_id=0) for p in (0.0, 0.1))
    assert without is not None
    assert with_dropout is not None
    shared, apart = without(rows), with_dropout(rows)
    assert shared.input_ids_BS.shape[1] == 20 + 3 * 2
    assert apart.input_ids_BS.shape[1] == 3 * 22


def test_a_model_that_needs_padding_gets_it_and_packing_is_refused() -> None:
    model = MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=8))
    assert speed_up(model, TrainConfig(), pad_id=0) is None
    with pytest.raises(ConfigError, match=r"train\.packing: .* its attention slides over a window; set it to false"):
        speed_up(model, TrainConfig(packing=True), pad_id=0)
    with pytest.raises(ConfigError, match=r"train\.padding_free: .* slides over a window"):
        speed_up(model, TrainConfig(padding_free=True), pad_id=0)


def test_settings_that_cannot_work_are_refused_when_the_config_is_read() -> None:
    with pytest.raises(ValueError, match="packing needs padding_free: true or auto"):
        TrainConfig(packing=True, padding_free=False)
    with pytest.raises(ValueError, match=r"use_liger_kernel needs GPUs, and resources_per_worker is \{'CPU': 1\.0\}"):
        TrainConfig(use_liger_kernel=True)


def test_liger_that_is_not_installed_is_named() -> None:
    train = TrainConfig(use_liger_kernel=True, resources_per_worker={"GPU": 1})
    with pytest.raises(ConfigError, match="pip install liger-kernel"):
        speed_up(adapted(), train, pad_id=0)


@pytest.mark.slow  # the compiler takes half a minute
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_compiled_layers_learn_what_plain_ones_learn() -> None:
    same(learn(adapted(), ROWS, torch_compile=True), learn(adapted(), ROWS))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_gpu_benchmark_refuses_a_machine_without_a_gpu() -> None:
    command = [sys.executable, str(Path(__file__).parents[3] / "benchmarks" / "gpu" / "train_gpu.py")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "needs a CUDA GPU" in done.stderr
