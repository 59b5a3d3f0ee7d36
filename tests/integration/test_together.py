"""Runs that share a base learn what each learns alone, in float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from luthier.config import RunConfig
from luthier.errors import ConfigError, TrainingDiverged
from luthier.trainers.inprocess import train_in_process
from luthier.trainers.metrics_stream import FILE_NAME, Metrics, read_metrics
from luthier.trainers.together import Together, Told, shared_base
from luthier.trainers.together.sliced import Slice

pytestmark = pytest.mark.usefixtures("ray_session")

ConfigIn = Callable[..., RunConfig]

TIMES = {"tokens_per_s", "loss_tokens_per_s"}
TOLERANCE = 5e-4
"""Share by which any figure of a step may differ. Sums in another order moved the losses and gradient norms of single
rows by 6e-5 within five steps, since AdamW makes steps of one size of small gradients. An adapter that misses one token
of each of its micro-batches moves them by 1.6e-3."""

SETTINGS: dict[str, dict[str, Any]] = {
    "first": {"lora_r": 8, "lora_alpha": 16, "learning_rate": 1e-3, "num_train_epochs": 2, "eval_steps": 2},
    "accumulates": {
        "lora_r": 4,
        "lora_alpha": 32,
        "learning_rate": 3e-3,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 3,
        "num_train_epochs": 2,
        "lr_scheduler_type": "cosine",
        "weight_decay": 0.1,
    },
    "leaves": {"lora_r": 2, "per_device_train_batch_size": 1, "lora_target_modules": ["q_proj", "v_proj"]},
    "joins": {
        "lora_r": 16,
        "use_rslora": True,
        "per_device_train_batch_size": 5,
        "max_grad_norm": 0.05,
        "max_steps": 4,
        "group_by_length": False,
    },
}
SEEDS = {"first": 1, "accumulates": 2, "leaves": 3, "joins": 4}


@pytest.fixture(scope="module")
def configs(config_in: ConfigIn, tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunConfig]:
    directory = tmp_path_factory.mktemp("together")
    return {
        name: config_in(directory, **settings).model_copy(update={"seed": SEEDS[name]})
        for name, settings in SETTINGS.items()
    }


@pytest.fixture(scope="module")
def alone(
    configs: Mapping[str, RunConfig], shallow_base_dir: Path, tmp_path_factory: pytest.TempPathFactory, ray_session: Any
) -> dict[str, Path]:
    """Each run's directory after training by itself."""
    directory = tmp_path_factory.mktemp("alone")
    for name, cfg in configs.items():
        here = directory / name
        train_in_process(cfg, base_model_dir=shallow_base_dir, workdir=here, report=lambda row, path: None)
    return {name: directory / name for name in configs}


def rounds(group: Together, number: int | None = None) -> list[Told]:
    """So many rounds, or until no run is left."""
    told: list[Told] = []
    while group.members and number != 0:
        told += group.round()
        number = None if number is None else number - 1
    return told


def train_together(configs: Mapping[str, RunConfig], base: Path, directory: Path) -> dict[str, dict[str, torch.Tensor]]:
    """One run leaves after five steps, another joins after two rounds; the weights that each had last."""
    group = Together(base, configs["first"])
    numbers = {name: group.join(configs[name], directory / name) for name in ("first", "accumulates", "leaves")}
    members = dict(group.members)
    rounds(group, 2)
    numbers["joins"] = group.join(configs["joins"], directory / "joins")
    members |= group.members
    rounds(group, 3)
    group.leave(numbers["leaves"])
    rounds(group)
    weights = {}
    for name, number in numbers.items():
        members[number].adapter.write(directory / name)
        weights[name] = load_file(directory / name / "adapter" / "adapter_model.safetensors")
    return weights


def difference(rows: list[Metrics], expected: list[Metrics]) -> float:
    """The largest share by which any figure of any step is off, times left out."""
    assert [row.keys() for row in rows] == [row.keys() for row in expected]
    pairs = [
        (row[key], right[key]) for row, right in zip(rows, expected, strict=True) for key in row if key not in TIMES
    ]
    return max(abs(one - other) / max(abs(other), 1e-6) for one, other in pairs)


def test_each_run_learns_what_it_learns_alone(
    configs: dict[str, RunConfig], alone: dict[str, Path], shallow_base_dir: Path, tmp_path: Path
) -> None:
    weights = train_together(configs, shallow_base_dir, tmp_path)
    for name in configs:
        rows, expected = read_metrics(tmp_path / name / FILE_NAME), read_metrics(alone[name] / FILE_NAME)
        if name == "leaves":
            assert len(rows) == 5 < len(expected)
            expected = expected[:5]
        else:
            assert "eval_loss" in rows[-1]
            (last,) = alone[name].glob(f"checkpoints/step-{len(expected):08d}")
            saved = load_file(last / "weights" / "adapter" / "adapter_model.safetensors")
            assert weights[name].keys() == saved.keys()
            for key, weight in saved.items():
                torch.testing.assert_close(weights[name][key], weight, rtol=1e-3, atol=1e-4, msg=f"{name} {key}")
        found = difference(rows, expected)
        print(f"{name}: {len(rows)} steps, largest relative difference {found:.2e}")
        assert found < TOLERANCE, name


def test_a_slice_that_is_off_by_one_token_is_noticed(
    configs: dict[str, RunConfig],
    alone: dict[str, Path],
    shallow_base_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = shared_base._side_by_side

    def wrong(parts: Any) -> list[Slice]:
        first, *rest = right(parts)
        return [Slice(slice(1, first.tokens.stop), first.adapter), *rest]  # nothing follows from the last token

    monkeypatch.setattr(shared_base, "_side_by_side", wrong)
    group = Together(shallow_base_dir, configs["first"])
    group.join(configs["first"], tmp_path / "first")
    group.join(configs["joins"], tmp_path / "joins")
    rounds(group)
    rows, expected = read_metrics(tmp_path / "first" / FILE_NAME), read_metrics(alone["first"] / FILE_NAME)
    assert difference(rows, expected) > 2 * TOLERANCE


def test_a_run_that_diverges_leaves_and_the_others_go_on(
    configs: dict[str, RunConfig], alone: dict[str, Path], shallow_base_dir: Path, tmp_path: Path
) -> None:
    group = Together(shallow_base_dir, configs["first"])
    number = group.join(configs["first"], tmp_path / "first")
    broken = group.join(configs["joins"], tmp_path / "broken")
    group.round()
    with torch.no_grad():
        group.members[broken].adapter.parameters()[0].fill_(float("nan"))
    told = rounds(group)
    (failed,) = [one for one in told if one.member == broken]
    assert isinstance(failed.error, TrainingDiverged)
    assert failed.is_last
    assert [one.metrics["step"] for one in told if one.member == number and one.metrics] == [2, 4, 6]
    rows, expected = read_metrics(tmp_path / "first" / FILE_NAME), read_metrics(alone["first"] / FILE_NAME)
    assert difference(rows, expected) < TOLERANCE


def test_a_run_for_another_base_is_refused_and_leaves_the_group_as_it_was(
    configs: dict[str, RunConfig], shallow_base_dir: Path, tmp_path: Path
) -> None:
    group = Together(shallow_base_dir, configs["first"])
    train = configs["first"].train
    for update, told in (
        ({"bf16": True}, "train.bf16 is True, and the trials that share the base have False"),
        ({"lora_dropout": 0.1}, "train.lora_dropout=0.1 can't be trained together"),
        ({"lora_target_modules": ("lm_head",)}, "puts an adapter on lm_head"),
        ({"lora_target_modules": ("embed_tokens",)}, "puts an adapter on model.embed_tokens"),
        ({"lora_target_modules": ("nothing",)}, "train.lora_target_modules"),
    ):
        cfg = configs["first"].model_copy(update={"train": train.model_copy(update=update)})
        with pytest.raises(ConfigError, match=told):
            group.join(cfg, tmp_path / "refused")
    assert not group.members
    group.join(configs["leaves"], tmp_path / "leaves")
    assert group.round() == []
