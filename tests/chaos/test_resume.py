"""Oracle E: a run whose workers were killed is, to the last bit, the run that was left alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from luthier.trainers import loop
from luthier.trainers.batches import StepPlan
from luthier.trainers.checkpoint import Checkpoint
from luthier.trainers.fit import train
from luthier.trainers.inprocess import make_job
from luthier.trainers.loop import Job, train_loop
from luthier.trainers.strategies import Worker
from luthier.trainers.strategies.ddp import Ddp
from tests.chaos.conftest import STRATEGIES, ConfigAt
from tests.chaos.harness import Outcome, Strike, assert_same, kill_all, kill_one, striking

pytestmark = pytest.mark.usefixtures("ray_session")

SAVE_STEPS = 2


@pytest.mark.parametrize(
    ("name", "kills"),
    [
        ("ddp", [(4, kill_one), (10, kill_all)]),
        pytest.param("z2", [(6, kill_one)], marks=pytest.mark.slow),
        pytest.param("z2", [(4, kill_all), (9, kill_one)], marks=pytest.mark.slow),
        pytest.param("ddp", [(1, kill_one), (7, kill_one)], marks=pytest.mark.slow),
    ],
    ids=["ddp", "z2", "z2 again", "ddp again"],
)
def test_a_run_whose_workers_were_killed_is_the_run_that_was_left_alone(
    name: str,
    kills: list[tuple[int, Callable[[], None]]],
    config_at: ConfigAt,
    shallow_base_dir: Path,
    left_alone: dict[str, Outcome],
    tmp_path: Path,
) -> None:
    cfg = config_at(tmp_path, max_failures=len(kills), **STRATEGIES[name])
    strikes = [Strike(step, act) for step, act in kills]
    with striking(tmp_path / "run", *strikes):
        train(cfg, base_model_dir=shallow_base_dir, workdir=tmp_path / "run")
    for strike in strikes:
        print(f"killed after step {strike.newest_step}, resumed from {strike.resumed_from}: {strike.next_step_s:.1f} s")
        assert strike.resumed_from is not None
        # A step may end between the look and the kill.
        assert strike.newest_step - strike.resumed_from <= SAVE_STEPS + 1
    assert_same(Outcome.of(tmp_path / "run"), left_alone[name])


class CutOff(Exception):
    """Ends a run in this process after a checkpoint."""


def alone(job: Job, *, until: int | None = None) -> Outcome:
    """Train in this process; with ``until``, only up to the checkpoint of that step."""

    def report(metrics: dict[str, float], checkpoint: Checkpoint) -> None:
        if checkpoint.step == until:
            raise CutOff

    job.workdir.mkdir(exist_ok=True)
    try:
        train_loop(job, Worker(0, 1, torch.device("cpu")), report)
    except CutOff:
        assert until is not None
    return Outcome.of(job.workdir)


def forget_generators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "seed_dropout", lambda checkpoint, worker, seed: torch.manual_seed(seed))


def forget_the_place_in_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    of_step = StepPlan.micro_batches
    monkeypatch.setattr(StepPlan, "micro_batches", lambda plan, step, rank: of_step(plan, step - 6, rank))


def forget_the_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_weights_only(strategy: Ddp, directory: Path) -> None:
        for name, weight in load_file(directory / "trained.safetensors").items():
            strategy._trained[name].data.copy_(weight)

    monkeypatch.setattr(Ddp, "load_state", load_weights_only)


@pytest.fixture(scope="module")
def lone_job(config_at: ConfigAt, shallow_base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    torch.set_num_threads(1)
    directory = tmp_path_factory.mktemp("lone")
    cfg = config_at(directory, num_workers=1, async_save=False, num_train_epochs=3, gradient_accumulation_steps=4)
    return make_job(cfg, shallow_base_dir, directory)


@pytest.fixture(scope="module")
def lone(lone_job: Job, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return alone(moved(lone_job, tmp_path_factory.mktemp("uncut")))


def moved(job: Job, workdir: Path) -> Job:
    return Job(job.cfg, job.base_model_dir, job.train, job.validation, workdir)


def test_a_run_that_was_cut_off_in_this_process_is_the_run_that_was_left_alone(
    lone_job: Job, lone: Outcome, tmp_path: Path
) -> None:
    job = moved(lone_job, tmp_path)
    alone(job, until=6)
    assert_same(alone(job), lone)


@pytest.mark.parametrize(
    "broken",
    [forget_generators, forget_the_place_in_the_data, forget_the_optimizer],
    ids=lambda broken: broken.__name__,
)
def test_control_the_oracle_sees_what_a_resume_forgets(
    broken: Callable[[pytest.MonkeyPatch], None],
    lone_job: Job,
    lone: Outcome,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = moved(lone_job, tmp_path)
    alone(job, until=6)
    broken(monkeypatch)
    outcome = alone(job)
    with pytest.raises(AssertionError):
        assert_same(outcome, lone)
