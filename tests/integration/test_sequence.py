"""Stages of one run on real Ray Train workers: what was learnt before is begun with, validated again, and guarded."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from luthier.config import RunConfig, apply_overrides
from luthier.errors import GateRefused
from luthier.manifest import load_manifest, verify
from luthier.trainers import sequence
from luthier.trainers.fit import TrainResult
from luthier.trainers.inprocess import make_job, train_in_process
from luthier.trainers.metrics_stream import FILE_NAME, read_metrics
from luthier.trainers.sequence import StageOutcome, read_stages, train_stages
from tests.conftest import ConfigIn

pytestmark = pytest.mark.usefixtures("ray_session")

PREFERENCES = Path(__file__).parents[2] / "examples" / "debian-preferences"
STILL = 1e-9
"""A learning rate that changes nothing."""
FORGETFUL = 5e-2
"""One at which the stage before is forgotten; it is so high that rounding grows from step to step."""
STEADY = 5e-3
"""One at which rounding stays rounding."""


@pytest.fixture(scope="module")
def data(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Three tasks: two read the same rows differently."""
    directory = tmp_path_factory.mktemp("preferences")
    for split, count in (("train", 8), ("validation", 4)):
        lines = (PREFERENCES / f"{split}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        (directory / f"{split}.jsonl").write_text("".join(lines[:count]), encoding="utf-8")
    places = {"text": small_data, "answers": small_data, "preferences": directory}
    return {
        name: {split: str(at / f"{split}.jsonl") for split in ("train", "validation")} for name, at in places.items()
    }


def staged(
    data: dict[str, dict[str, str]], config_in: ConfigIn, directory: Path, rate: float, **train: Any
) -> RunConfig:
    """Text, answers learnt at a rate, then preferences without change."""
    plain = config_in(directory, learning_rate=5e-3, num_workers=2, per_device_train_batch_size=2, **train)
    raw = plain.model_dump(mode="json")
    raw["datasets"] = [{"name": name, **files} for name, files in data.items()]
    raw["train"]["objective"] = "dpo"
    raw["stages"] = [
        {"name": "text", "datasets": ["text"], "train": {"objective": "pretraining", "num_train_epochs": 3}},
        {
            "name": "answers",
            "datasets": ["answers"],
            "train": {"objective": "sft", "num_train_epochs": 3, "learning_rate": rate},
        },
        {"name": "preferences", "datasets": ["preferences"], "train": {"learning_rate": STILL}},
    ]
    return RunConfig.model_validate(raw)


@pytest.fixture(scope="module")
def run(
    ray_session: Any,
    data: dict[str, dict[str, str]],
    config_in: ConfigIn,
    shallow_base_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[RunConfig, Path, TrainResult]:
    directory = tmp_path_factory.mktemp("stages")
    cfg = staged(data, config_in, directory, FORGETFUL)
    return cfg, directory / "train", train_stages(cfg, base_model_dir=shallow_base_dir, workdir=directory / "train")


def test_every_stage_goes_on_from_the_last_and_validates_the_tasks_before_it(
    run: tuple[RunConfig, Path, TrainResult],
) -> None:
    _, workdir, result = run
    first, second, third = read_stages(workdir)
    assert [set(stage.losses) for stage in (first, second, third)] == [
        {"text"},
        {"text", "answers"},
        {"text", "answers", "preferences"},
    ]
    assert first.forgotten == {}
    assert second.forgotten == {"text": pytest.approx(second.losses["text"] / first.losses["text"] - 1.0)}
    # The last stage's learning rate changes nothing: it begins where the second ended, under another objective's loss.
    for name in ("text", "answers"):
        assert third.losses[name] == pytest.approx(second.losses[name], rel=1e-4)
    assert third.forgotten["answers"] == pytest.approx(0.0, abs=1e-4)
    assert third.losses["preferences"] != pytest.approx(0.6931, abs=1e-4)  # ln 2: the base, not what was trained since
    steps = [row["step"] for row in result.metrics]
    assert steps == list(range(1, len(steps) + 1))
    assert [row["stage"] for row in result.metrics] == [1] * 9 + [2] * 9 + [3] * 2
    assert read_metrics(workdir / FILE_NAME) == list(result.metrics)


def test_the_artifact_is_the_whole_runs(run: tuple[RunConfig, Path, TrainResult]) -> None:
    cfg, workdir, result = run
    manifest = load_manifest(workdir / "artifact")
    verify(workdir / "artifact", manifest)
    assert manifest == result.manifest
    assert manifest.objective == "dpo"
    trained_on = [print.path for print in manifest.data["train"]]
    assert trained_on == list(dict.fromkeys(dataset.train for dataset in cfg.datasets))
    assert "stages:" in (workdir / "artifact" / "config.yaml").read_text(encoding="utf-8")


def test_a_guard_refuses_what_forgets_and_repeats_nothing_that_is_done(
    run: tuple[RunConfig, Path, TrainResult], shallow_base_dir: Path, tmp_path: Path
) -> None:
    cfg, workdir, _ = run
    shutil.copytree(workdir, tmp_path / "train")
    streams = sorted(tmp_path.glob("train/stage-*/metrics.jsonl"))
    written_at = [stream.stat().st_mtime_ns for stream in streams]
    rise = read_stages(workdir)[1].forgotten["text"]
    assert rise > 0.01
    allowing = apply_overrides(cfg, {"stages.1.max_forgetting": rise * 1.01, "stages.2.max_forgetting": rise * 1.01})
    train_stages(allowing, base_model_dir=shallow_base_dir, workdir=tmp_path / "train")
    refusing = apply_overrides(cfg, {"stages.1.max_forgetting": rise * 0.99})
    with pytest.raises(GateRefused, match=r"stage answers forgot: the validation loss of text rose by") as caught:
        train_stages(refusing, base_model_dir=shallow_base_dir, workdir=tmp_path / "train")
    assert caught.value.exit_code == 3
    assert str(tmp_path / "train" / "stage-1-text" / "artifact") in str(caught.value)
    assert [stream.stat().st_mtime_ns for stream in streams] == written_at
    assert len(json.loads((tmp_path / "train" / sequence.STAGES).read_text())) == 2


def test_control_a_stage_that_begins_with_the_base_is_seen(
    run: tuple[RunConfig, Path, TrainResult], shallow_base_dir: Path, tmp_path: Path
) -> None:
    _, workdir, result = run
    begun = replace(make_job(result.job.cfg, shallow_base_dir, tmp_path / "begun"), earlier=result.job.earlier)
    assert begun.start is None
    train_in_process(
        begun.cfg, base_model_dir=shallow_base_dir, workdir=tmp_path / "base", report=lambda row, path: None
    )
    losses = read_metrics(tmp_path / "base" / FILE_NAME)[-1]
    assert losses["eval_loss"] == pytest.approx(0.6931, abs=1e-4)
    assert read_stages(workdir)[2].losses["preferences"] != pytest.approx(losses["eval_loss"], abs=1e-3)


@pytest.mark.slow
def test_stages_come_to_the_same_under_every_strategy(
    ray_session: Any, data: dict[str, dict[str, str]], config_in: ConfigIn, shallow_base_dir: Path, tmp_path: Path
) -> None:
    def stages_of(**strategy: str) -> list[StageOutcome]:
        directory = tmp_path / "-".join(strategy.values())
        cfg = staged(data, config_in, directory, STEADY, **strategy)
        train_stages(cfg, base_model_dir=shallow_base_dir, workdir=directory / "train")
        return read_stages(directory / "train")

    expected = stages_of(strategy="ddp")
    for strategy in (
        {"strategy": "deepspeed", "deepspeed": "z2"},
        {"strategy": "deepspeed", "deepspeed": "z3"},
        {"strategy": "fsdp2"},
    ):
        for stage, same in zip(stages_of(**strategy), expected, strict=True):
            assert stage.losses == pytest.approx(same.losses, abs=2e-3), strategy
