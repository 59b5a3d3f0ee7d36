"""The search space is checked in full before the first trial."""

from __future__ import annotations

from typing import Any

import pytest

from luthier.config import RunConfig
from luthier.errors import ConfigError
from luthier.tuning.space import check_space, final_config, probe_values, sweep_of, trial_config

BASE: dict[str, Any] = {
    "name": "demo",
    "model": {"model_name_or_path": "some/model"},
    "datasets": [{"train": "train.jsonl", "validation": "validation.jsonl", "test": "test.jsonl"}],
}


def sweep(space: dict[str, Any], **settings: Any) -> RunConfig:
    return RunConfig.model_validate({**BASE, "tune": {"search_space": space, **settings}})


def test_valid_space_passes() -> None:
    check_space(
        sweep(
            {
                "train.learning_rate": {"type": "loguniform", "low": 1e-5, "high": 1e-2},
                "train.lora_r": {"type": "choice", "values": [8, 64]},
                "train.lora_dropout": {"type": "uniform", "low": 0.0, "high": 0.2},
                "train.num_train_epochs": {"type": "randint", "low": 1, "high": 4},
                "train.per_device_train_batch_size": {"type": "quniform", "low": 8, "high": 32, "q": 8},
            },
            overrides={"train.max_steps": 10},
        )
    )


@pytest.mark.parametrize(
    ("space", "named"),
    [
        (
            {"train.learnin_rate": {"type": "uniform", "low": 0.1, "high": 0.2}},
            ["train.learnin_rate", "learning_rate"],
        ),
        ({"trian.learning_rate": {"type": "uniform", "low": 0.1, "high": 0.2}}, ["trian", "train"]),
        ({"train.lora_r": {"type": "choice", "values": [8, "many"]}}, ["train.lora_r='many'"]),
        ({"train.lora_r": {"type": "grid", "values": [8, 128]}}, ["train.lora_r=128", "serve.max_lora_rank"]),
        ({"train.learning_rate": {"type": "uniform", "low": 0.1, "high": 5.0}}, ["train.learning_rate=5.0"]),
        (
            {"train.learning_rate": {"type": "uniform", "low": -0.1, "high": 0.5}},
            ["train.learning_rate=-0.1"],
        ),
        ({"train.lora_r": {"type": "uniform", "low": 4, "high": 16}}, ["train.lora_r=", "integer"]),
        ({"train.lora_r": {"type": "quniform", "low": 4, "high": 16, "q": 0.5}}, ["train.lora_r=4.5"]),
        ({"train.lora_r": {"type": "randint", "low": 0, "high": 16}}, ["train.lora_r=0"]),
        ({"model.model_name_or_path": {"type": "choice", "values": ["a", "b"]}}, ["model", "prepared once"]),
        ({"serve.port": {"type": "choice", "values": [1, 2]}}, ["serve.port", "can't vary"]),
    ],
)
def test_invalid_space_is_refused_by_name(space: dict[str, Any], named: list[str]) -> None:
    with pytest.raises(ConfigError) as raised:
        check_space(sweep(space))
    for part in named:
        assert part in str(raised.value)
    assert raised.value.exit_code == 2


def test_invalid_combination_names_only_the_keys_at_fault() -> None:
    cfg = sweep(
        {
            "train.learning_rate": {"type": "choice", "values": [1e-4, 1e-3]},
            "train.strategy": {"type": "choice", "values": ["ddp", "deepspeed"]},
            "train.deepspeed": {"type": "choice", "values": ["z2", "z3"]},
        }
    )
    with pytest.raises(ConfigError) as raised:
        check_space(cfg)
    message = str(raised.value)
    assert "train.strategy='ddp'" in message or "train.deepspeed='z2'" in message
    assert "train.learning_rate=" not in message


def test_values_valid_only_together_pass() -> None:
    check_space(
        sweep(
            {
                "train.strategy": {"type": "choice", "values": ["deepspeed"]},
                "train.deepspeed": {"type": "choice", "values": ["z0", "z2"]},
            }
        )
    )


def test_a_space_too_large_to_cross_is_still_checked_in_pairs() -> None:
    values = list(range(1, 15))
    cfg = sweep(
        {
            "train.lora_r": {"type": "choice", "values": [*values, 128]},
            "train.num_train_epochs": {"type": "choice", "values": values},
            "train.max_steps": {"type": "choice", "values": values},
        }
    )
    with pytest.raises(ConfigError, match=r"train\.lora_r=128"):
        check_space(cfg)


def test_override_and_search_of_the_same_key_are_refused() -> None:
    space = {"train.max_steps": {"type": "choice", "values": [5, 10]}}
    with pytest.raises(ConfigError, match="same key"):
        check_space(sweep(space, overrides={"train.max_steps": 3}))


def test_a_bad_override_is_refused_by_name() -> None:
    space = {"train.learning_rate": {"type": "choice", "values": [1e-4]}}
    with pytest.raises(ConfigError, match=r"tune\.overrides.*num_train_epochs"):
        check_space(sweep(space, overrides={"train.num_train_epoch": 1}))


def test_a_trial_has_the_overrides_and_values_but_neither_test_split_nor_sweep() -> None:
    cfg = sweep({"train.lora_r": {"type": "choice", "values": [8]}}, overrides={"train.num_train_epochs": 2})
    trial = trial_config(cfg, {"train.lora_r": 8})
    assert (trial.train.lora_r, trial.train.num_train_epochs) == (8, 2)
    assert trial.datasets[0].test is None
    assert trial.datasets[0].validation == "validation.jsonl"
    assert trial.tune is None
    assert cfg.datasets[0].test == "test.jsonl"


def test_the_final_run_has_the_values_but_not_the_overrides() -> None:
    cfg = sweep({"train.lora_r": {"type": "choice", "values": [8]}}, overrides={"train.num_train_epochs": 2})
    final = final_config(cfg, {"train.lora_r": 8})
    assert (final.train.lora_r, final.train.num_train_epochs) == (8, 1)
    assert final.datasets[0].test == "test.jsonl"


def test_grid_multiplies_the_samples() -> None:
    cfg = sweep(
        {
            "train.lora_r": {"type": "grid", "values": [4, 8, 16]},
            "train.weight_decay": {"type": "grid", "values": [0.0, 0.1]},
        },
        num_samples=2,
    )
    assert sweep_of(cfg).num_trials == 12


def test_quniform_probes_are_multiples_of_its_step() -> None:
    cfg = sweep({"train.lora_r": {"type": "quniform", "low": 7, "high": 17, "q": 4}})
    domain = sweep_of(cfg).search_space["train.lora_r"]
    assert all(value % 4 == 0 for value in probe_values(domain))


def test_a_config_without_a_sweep_is_refused() -> None:
    with pytest.raises(ConfigError, match="tune"):
        check_space(RunConfig.model_validate(BASE))


@pytest.mark.parametrize("metric", ["eval_loss", "loss"])
def test_a_loss_is_never_maximised(metric: str) -> None:
    with pytest.raises(ValueError, match="set mode: min"):
        sweep({"train.lora_r": {"type": "choice", "values": [8]}}, metric=metric, mode="max")
