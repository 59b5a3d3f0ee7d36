"""Fine-tuning of the real small model on real Ray Train workers, in float32 so that runs can be compared."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray.train import RunConfig as RayRunConfig
from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer
from safetensors.torch import load_file, save_file

from luthier.api import train_facts
from luthier.config import RunConfig
from luthier.errors import ResourceError, TrainingDiverged
from luthier.manifest import load_manifest, verify
from luthier.trainers.fit import TrainResult, this_worker, train
from luthier.trainers.inprocess import make_job, train_in_process
from luthier.trainers.loop import Job, train_loop
from luthier.trainers.metrics_stream import FILE_NAME, Metrics, read_metrics

pytestmark = pytest.mark.usefixtures("ray_session")

MakeConfig = Callable[..., RunConfig]
ConfigIn = Callable[..., RunConfig]
LOSS_TOLERANCE = 2e-4
"""Nats by which float32 losses of the same rows may differ when they are summed in another order."""

BF16_LOSS_TOLERANCE = 0.3
"""The same in bfloat16 for the shallow model: its losses are near 37 nats, where neighbours are 0.25 apart."""

PAIR = {"num_workers": 2, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 2}
"""Two workers that share out the four rows of each optimizer step."""


def alone(cfg: RunConfig, base_model_dir: Path, workdir: Path) -> list[Metrics]:
    """Metrics of the same training by one worker in this process, without Ray Train."""
    train_in_process(cfg, base_model_dir=base_model_dir, workdir=workdir, report=lambda row, path: None)
    return read_metrics(workdir / FILE_NAME)


def agree(
    rows: Sequence[Metrics], expected: Sequence[Metrics], *, loss: float = LOSS_TOLERANCE, norm: float = 1e-3
) -> None:
    """Losses agree within ``loss`` nats, and gradient norms within the fraction ``norm``."""
    assert [row["step"] for row in rows] == [row["step"] for row in expected]
    assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in expected], abs=loss)
    assert rows[-1]["eval_loss"] == pytest.approx(expected[-1]["eval_loss"], abs=loss)
    norms = [row["grad_norm"] for row in expected]
    assert [row["grad_norm"] for row in rows] == pytest.approx(norms, rel=norm)


@pytest.mark.slow  # test_strategies.py holds two workers against one, chaos/test_resume.py a run that was cut off
def test_two_workers_learn_what_one_learns_and_continue_where_they_were_cut_off(
    make_config: MakeConfig, base_model_dir: Path, tmp_path: Path
) -> None:
    expected = alone(make_config(), base_model_dir, tmp_path / "alone")
    seen: list[Metrics] = []
    # A checkpoint each step, and one kept: Ray Train must continue although it took note of those deleted since.
    settings: dict[str, Any] = {**PAIR, "eval_steps": 1, "save_total_limit": 1}
    places: dict[str, Any] = {"base_model_dir": base_model_dir, "workdir": tmp_path / "pair"}
    first = train(make_config(**settings, max_steps=2), **places, on_metrics=seen.append)
    assert seen == list(first.metrics)
    assert [path.name for path in tmp_path.glob("pair/checkpoints/step-*")] == ["step-00000002"]
    result = train(make_config(**settings), **places, on_metrics=seen.append)
    assert result.manifest.lineage_id == first.manifest.lineage_id
    assert result.metrics[:2] == first.metrics
    assert seen == list(result.metrics)
    assert [row["step"] for row in result.metrics] == [1, 2, 3]
    assert [row["loss_tokens"] for row in result.metrics] == [row["loss_tokens"] for row in expected]
    agree(result.metrics, expected)
    assert [(row["rows"], row["rows_seen"]) for row in result.metrics] == [(4, 4), (4, 8), (4, 12)]
    facts = train_facts(result)["rows"]
    assert (facts["rows"], facts["kept"], facts["dropped"], facts["seen"]) == (12, 12, 0, 12)
    assert facts["limits"]["data.max_length"] == 96
    assert eval_losses(result)[-1] < eval_losses(result)[0]
    check_artifact(result, "adapter/adapter_model.safetensors")


def eval_losses(result: TrainResult) -> list[float]:
    return [row["eval_loss"] for row in result.metrics if "eval_loss" in row]


def check_artifact(result: TrainResult, weights: str) -> None:
    """The artifact is whole, and is the best checkpoint's."""
    manifest = load_manifest(result.artifact_dir)
    verify(result.artifact_dir, manifest)
    assert manifest == result.manifest
    assert manifest.metrics["eval_loss"] == min(eval_losses(result))
    assert manifest.metrics["step"] == result.best_step
    assert weights in manifest.files


STAGES = {"z0": ("lora", False), "z1": ("lora", True), "z2": ("lora", False), "z3": ("full", True)}
"""Of each ZeRO stage: the method, and whether the run is cut off after two steps and continued."""


@pytest.fixture(scope="module")
def zero_jobs(
    ray_session: Any, config_in: ConfigIn, shallow_base_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Job]:
    """Trainings at every stage, done in turn by one group of two Ray Train workers: its start takes the most time."""
    directory = tmp_path_factory.mktemp("zero")
    jobs: dict[str, Job] = {}
    in_turn: list[Job] = []
    for stage, (method, cut_off) in STAGES.items():
        shared: dict[str, Any] = {**PAIR, "method": method, "learning_rate": 1e-4}
        make = partial(config_in, directory, strategy="deepspeed", deepspeed=stage, **shared)
        (directory / stage).mkdir()
        jobs[stage] = make_job(make(), shallow_base_dir, directory / stage)
        in_turn += [replace(jobs[stage], cfg=make(max_steps=2))] if cut_off else []
        in_turn.append(jobs[stage])

    def train_all() -> None:
        worker = this_worker(in_turn[0].cfg)
        for job in in_turn:
            train_loop(job, worker, lambda metrics, checkpoint: None)

    TorchTrainer(train_all, scaling_config=ScalingConfig(num_workers=2), run_config=place(directory)).fit()
    return jobs


def place(directory: Path) -> RayRunConfig:
    return RayRunConfig(name="ray", storage_path=str(directory))


@pytest.fixture(scope="module")
def lone_runs(
    config_in: ConfigIn, shallow_base_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """Directory of a method's run by one worker, made when first asked for."""
    directory = tmp_path_factory.mktemp("alone")

    def find(method: str) -> Path:
        if not (directory / method).exists():
            alone(config_in(directory, method=method, learning_rate=1e-4), shallow_base_dir, directory / method)
        return directory / method

    return find


@pytest.mark.slow  # test_strategies.py tries every stage on a narrow model
@pytest.mark.parametrize("stage", STAGES)
def test_deepspeed_stages_learn_what_one_worker_learns(
    stage: str, zero_jobs: dict[str, Job], lone_runs: Callable[[str], Path]
) -> None:
    method, job = STAGES[stage][0], zero_jobs[stage]
    lone = lone_runs(method)
    agree(read_metrics(job.workdir / FILE_NAME), read_metrics(lone / FILE_NAME))
    weights = "adapter/adapter_model.safetensors" if method == "lora" else "model/model.safetensors"
    trained, expected = (load_file(newest_weights(workdir, weights)) for workdir in (job.workdir, lone))
    assert trained.keys() == expected.keys()
    for name, weight in trained.items():
        torch.testing.assert_close(weight, expected[name], atol=2e-3, rtol=0.02)


def newest_weights(workdir: Path, name: str) -> Path:
    return max(workdir.glob("checkpoints/step-*")) / "weights" / name


@pytest.mark.slow
def test_deepspeed_trains_alone_in_bfloat16_and_again_in_the_same_process(
    make_config: MakeConfig, shallow_base_dir: Path, tmp_path: Path
) -> None:
    shared: dict[str, Any] = {"bf16": True, "max_steps": 2, "learning_rate": 1e-4}
    configs = {
        stage: make_config(**shared, strategy="deepspeed", deepspeed=stage) for stage in ("z0", "z1", "z2", "z3")
    }

    def trials() -> dict[str, list[Metrics]]:
        # What a sweep does: one process trains one trial after another.
        for stage, cfg in configs.items():
            workdir = tmp_path / stage
            train_in_process(cfg, base_model_dir=shallow_base_dir, workdir=workdir, report=lambda row, path: None)
        return {stage: read_metrics(tmp_path / stage / FILE_NAME) for stage in configs}

    expected = alone(make_config(**shared), shallow_base_dir, tmp_path / "alone")
    for rows in ray.get(ray.remote(num_cpus=1)(trials).remote()).values():
        agree(rows, expected, loss=BF16_LOSS_TOLERANCE, norm=0.05)


@pytest.mark.slow
def test_full_fine_tuning_changes_every_layer_of_the_real_model(
    make_config: MakeConfig, base_model_dir: Path, tmp_path: Path
) -> None:
    shared: dict[str, Any] = {"num_workers": 2, "per_device_train_batch_size": 2, "max_steps": 2}
    cfg = make_config(method="full", learning_rate=1e-4, bf16=True, gradient_checkpointing=True, **shared)
    result = train(cfg, base_model_dir=base_model_dir, workdir=tmp_path / "run")
    check_artifact(result, "model/model.safetensors")
    before = load_file(base_model_dir / "model.safetensors")
    after = load_file(result.artifact_dir / "model" / "model.safetensors")
    assert after.keys() == before.keys()
    unchanged = [name for name in before if before[name].ndim == 2 and torch.equal(before[name], after[name])]
    assert unchanged == []


def test_workers_that_the_cluster_cannot_hold_end_the_run_in_time(
    make_config: MakeConfig, shallow_base_dir: Path, tmp_path: Path
) -> None:
    cfg = make_config(resources_per_worker={"CPU": 64}, start_timeout_s=2)
    make_job(cfg, shallow_base_dir, tmp_path / "run")  # so that the rows are tokenised before the clock starts
    began = time.monotonic()
    with pytest.raises(ResourceError, match=r"1 worker\(s\) of \{'CPU': 64\.0\} within train\.start_timeout_s=2 s"):
        train(cfg, base_model_dir=shallow_base_dir, workdir=tmp_path / "run")
    assert time.monotonic() - began < 50  # Ray's own limit is 60 s


def test_a_loss_that_is_not_a_number_ends_the_run_and_names_the_step(
    make_config: MakeConfig, shallow_base_dir: Path, tmp_path: Path
) -> None:
    poisoned = tmp_path / "poisoned"
    shutil.copytree(shallow_base_dir, poisoned)
    weights = load_file(poisoned / "model.safetensors")
    weights["model.norm.weight"][0] = math.nan
    save_file(weights, poisoned / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TrainingDiverged, match=r"step 1: the loss is nan; lower train\.learning_rate"):
        train(make_config(max_steps=2), base_model_dir=poisoned, workdir=tmp_path / "run")
    assert not list(tmp_path.glob("run/checkpoints/step-*"))
    assert not (tmp_path / "run" / "artifact").exists()
