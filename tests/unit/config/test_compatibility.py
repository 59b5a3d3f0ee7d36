"""The table of what goes together: the docs show it, and a config that it refuses does not load."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from luthier.config.compatibility import DEVICES, METHODS, REFUSALS, STRATEGIES, Device, markdown, refusal
from luthier.config.train import TrainConfig

ROOT = Path(__file__).parents[3]
DOCS = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")

AS_SET: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "pissa": {"init_lora_weights": "olora"},
    "modules_to_save": {"lora_modules_to_save": ["lm_head"]},
    "qlora": {"load_in_4bit": True},
    "full": {"method": "full"},
    "frozen": {"method": "full", "freeze_layers": 2},
}


def settings(strategy: str, method: str, device: Device) -> dict[str, Any]:
    named = {"strategy": strategy} if strategy in ("ddp", "fsdp2") else {"strategy": "deepspeed", "deepspeed": strategy}
    return {**named, **AS_SET[method], "resources_per_worker": {"CPU": 1, "GPU": int(device == "gpu")}}


@pytest.mark.parametrize("device", DEVICES)
def test_the_docs_show_the_data(device: Device) -> None:
    assert markdown(device) in DOCS
    for one in REFUSALS:
        assert one.reason.partition(";")[0] in re.sub(r"\s+", " ", DOCS)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_config_loads_where_the_table_says_so(strategy: str, method: str, device: Device) -> None:
    wanted = settings(strategy, method, device)
    reason = refusal(strategy, method, device)
    if reason is None:
        train = TrainConfig.model_validate(wanted)
        assert (train.strategy_row, train.device) == (strategy, device)
        assert method in train.method_columns
    else:
        with pytest.raises(ValidationError, match=re.escape(f"with {strategy} on a {device.upper()}: {reason}")):
            TrainConfig.model_validate(wanted)


def test_a_method_that_no_strategy_carries_is_refused_before_one_is_chosen() -> None:
    with pytest.raises(ValidationError, match="load_in_4bit with any strategy on a CPU: 4-bit weights need a GPU"):
        TrainConfig(strategy="auto", load_in_4bit=True)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "eva": ({"init_lora_weights": "eva"}, "it needs a pass over the data first; set it to true, gaussian"),
    "loftq": ({"init_lora_weights": "loftq"}, "quantised by peft itself"),
    "no such start": ({"init_lora_weights": "zeros"}, "peft has no such way"),
    "a start away from the model": ({"init_lora_weights": False}, "do not begin at zero"),
    "no number": ({"init_lora_weights": "pissa_niter_x"}, "peft has no such way"),
    "odd orthogonal": ({"init_lora_weights": "orthogonal", "lora_r": 3}, "needs an even lora_r; it is 3"),
    "DoRA on a changed base": ({"init_lora_weights": "pissa", "use_dora": True}, "which use_dora does not allow"),
    "DoRA without adapters": ({"method": "full", "use_dora": True}, "use_dora needs method: lora"),
    "4 bits without adapters": ({"method": "full", "load_in_4bit": True}, "load_in_4bit needs method: lora"),
    "frozen with adapters": ({"freeze_layers": 1}, "need method: full"),
    "a stage without DeepSpeed": ({"deepspeed": "z2"}, "train.deepspeed=z2 is set but strategy is ddp"),
    "DeepSpeed without a stage": ({"strategy": "deepspeed"}, "needs train.deepspeed; set it to z0"),
    "a stage beside auto": ({"strategy": "auto", "deepspeed": "z2"}, "train.deepspeed=z2 is set but strategy is auto"),
}


@pytest.mark.parametrize("case", WRONG)
def test_settings_that_do_not_go_together_are_refused(case: str) -> None:
    changes, message = WRONG[case]
    with pytest.raises(ValidationError, match=re.escape(message)):
        TrainConfig.model_validate(changes)
