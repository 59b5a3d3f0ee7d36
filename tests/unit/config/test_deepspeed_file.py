"""A user's DeepSpeed JSON: what is filled in, and what contradicts the run's own settings."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from luthier.config import RunConfig, apply_overrides, dump_yaml, load_config
from luthier.config.deepspeed_file import KNOWN, ZERO_KNOWN, DeepspeedFile
from luthier.errors import ConfigError

ROOT = Path(__file__).parents[3]
USUAL = json.loads((ROOT / "configs" / "deepspeed" / "zero2-offload.json").read_text())


def load(directory: Path, settings: object, **train: Any) -> RunConfig:
    file = directory / "ds.json"
    file.write_text(settings if isinstance(settings, str) else json.dumps(settings), encoding="utf-8")
    described = {
        "name": "demo",
        "model": {"model_name_or_path": "some/model"},
        "datasets": [{"train": "train.jsonl"}],
        "train": {"strategy": "deepspeed", "deepspeed": str(file), "num_workers": 2, **train},
    }
    (directory / "run.yaml").write_text(yaml.safe_dump(described), encoding="utf-8")
    return load_config(directory / "run.yaml")


def test_the_content_stays_with_the_config_and_the_file_may_go(tmp_path: Path) -> None:
    cfg = load(tmp_path, USUAL)
    (tmp_path / "ds.json").unlink()
    (tmp_path / "again.yaml").write_text(dump_yaml(cfg))
    assert load_config(tmp_path / "again.yaml") == cfg
    assert isinstance(cfg.train.deepspeed, DeepspeedFile)
    assert cfg.train.deepspeed.settings == USUAL
    assert cfg.train.strategy_row == "z2_offload"


def test_values_that_agree_are_accepted(tmp_path: Path) -> None:
    agreeing = {
        **USUAL,
        "train_batch_size": 16,
        "gradient_clipping": 1.0,
        "fp16": {"enabled": False},
        "scheduler": {"type": "WarmupCosineLR", "params": {"warmup_num_steps": "auto", "warmup_type": "linear"}},
    }
    assert load(tmp_path, agreeing).train.strategy_row == "z2_offload"


CONTRADICTIONS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "not JSON": ("{", ("ds.json: not valid JSON",)),
    "no object": ("[]", ("ds.json: holds list",)),
    "unknown key": ({"gradient_cliping": 1}, ("unknown key 'gradient_cliping'; did you mean 'gradient_clipping'?",)),
    "a section that is not ours": ({"pipeline": {}}, ("unknown key 'pipeline'; luthier does not use it",)),
    "another batch": (
        {"train_micro_batch_size_per_gpu": 3},
        ("train_micro_batch_size_per_gpu is 3, but train.per_device_train_batch_size is 8", '"auto"'),
    ),
    "another whole batch": ({"train_batch_size": 8}, ("train_batch_size is 8, but", "num_workers of train is 16")),
    "another accumulation": ({"gradient_accumulation_steps": 4}, ("train.gradient_accumulation_steps is 1",)),
    "another clipping": ({"gradient_clipping": 0.5}, ("gradient_clipping is 0.5, but train.max_grad_norm is 1.0",)),
    "bf16 that is left to the hardware": (
        {"bf16": {"enabled": True}},
        ('bf16.enabled is true, but train.bf16 is "auto"',),
    ),
    "fp16": ({"fp16": {"enabled": True}}, ("fp16.enabled is true, but luthier trains in float32 or bfloat16",)),
    "another optimizer": ({"optimizer": {"type": "Lamb"}}, ('optimizer.type is "Lamb"', "AdamW")),
    "another rate": (
        {"optimizer": {"type": "AdamW", "params": {"lr": 0.1}}},
        ("optimizer.params.lr is 0.1, but train.learning_rate is 0.0002",),
    ),
    "other betas": (
        {"optimizer": {"type": "AdamW", "params": {"betas": [0.8, 0.99]}}},
        ("optimizer.params.betas is [0.8, 0.99], but luthier trains with [0.9, 0.999]",),
    ),
    "an unknown schedule": ({"scheduler": {"type": "OneCycle"}}, ('scheduler.type is "OneCycle"', "WarmupDecayLR")),
    "another schedule": (
        {"scheduler": {"type": "WarmupDecayLR"}},
        ("scheduler.type is WarmupDecayLR, which is train.lr_scheduler_type=linear, but that is cosine",),
    ),
    "a length of its own": (
        {"scheduler": {"type": "WarmupCosineLR", "params": {"warmup_num_steps": 10}}},
        ("scheduler.params.warmup_num_steps is 10, but", "train.warmup_ratio decide"),
    ),
    "no such stage": ({"zero_optimization": {"stage": 4}}, ("zero_optimization.stage is 4; set it to 0, 1, 2 or 3",)),
    "offload to disk": (
        {"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme"}}},
        ('zero_optimization.offload_param.device is "nvme"',),
    ),
    "auto that nothing fills": (
        {"zero_optimization": {"stage": 2, "allgather_bucket_size": "auto"}},
        ('zero_optimization.allgather_bucket_size is "auto"',),
    ),
    "unknown key of ZeRO": (
        {"zero_optimization": {"stage": 2, "overlap_com": True}},
        ("zero_optimization: unknown key 'overlap_com'; did you mean 'overlap_comm'?",),
    ),
    "two at once": (
        {"gradient_clipping": 2, "train_batch_size": 3},
        ("gradient_clipping is 2", "train_batch_size is 3"),
    ),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_a_contradiction_is_refused_with_file_key_and_both_values(case: str, tmp_path: Path) -> None:
    settings, expected = CONTRADICTIONS[case]
    with pytest.raises(ConfigError) as raised:
        load(tmp_path, settings)
    assert raised.value.exit_code == 2
    for part in ("ds.json", "run.yaml:", *expected):
        assert part in str(raised.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    cfg = load(tmp_path, {})
    with pytest.raises(ConfigError, match=r"DeepSpeed file '/nowhere\.json' can't be read"):
        apply_overrides(cfg, {"train.deepspeed": "/nowhere.json"})
    with pytest.raises(ConfigError, match=r"set it to z0, .*z3_offload, or to the path of a \.json file"):
        apply_overrides(cfg, {"train.deepspeed": "z9"})


def test_a_sweep_over_a_value_that_the_file_fixes_is_refused(tmp_path: Path) -> None:
    cfg = load(tmp_path, {"optimizer": {"type": "AdamW", "params": {"lr": 0.0002}}})
    with pytest.raises(ConfigError, match=r"optimizer\.params\.lr is 0\.0002, but train\.learning_rate is 0\.001"):
        apply_overrides(cfg, {"train.learning_rate": 1e-3})


def test_every_known_section_is_one_of_deepspeeds() -> None:
    import importlib.util

    spec = importlib.util.find_spec("deepspeed")
    assert spec is not None and spec.origin is not None
    sources = [path.read_text() for path in Path(spec.origin).parent.rglob("*.py")]
    assert [key for key in sorted(KNOWN) if not any(f'"{key}"' in source for source in sources)] == []
    zero = (Path(spec.origin).parent / "runtime" / "zero" / "config.py").read_text()
    assert [key for key in sorted(ZERO_KNOWN) if not re.search(rf'^    {key}: |alias="{key}"', zero, re.M)] == []
