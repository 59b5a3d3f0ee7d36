"""Searchers, schedulers, budgets, retries and seeds of sweeps, on a real Ray session."""

from __future__ import annotations

import json
import pickle
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from luthier.config import RunConfig
from luthier.sweep_schema import TrialResult
from luthier.tuning import tune
from luthier.tuning.journal import Journal
from luthier.tuning.proposing import make_searcher
from luthier.tuning.record import SweepLog
from luthier.tuning.source import TrialSource
from luthier.tuning.space import sweep_of
from luthier.tuning.summary import summarize
from luthier.tuning.trial import Report, TrainTrial, TrialSpec
from luthier.tuning.tuner import repeat_finalists, run_trials
from tests.conftest import MakeConfig

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_session")]

RATES = {"train.learning_rate": {"type": "loguniform", "low": 1e-5, "high": 1e-2}}


def with_sweep(cfg: RunConfig, settings: Mapping[str, Any]) -> RunConfig:
    return RunConfig.model_validate({**cfg.model_dump(mode="json"), "tune": {"search_space": RATES, **settings}})


def stand_in(*, seconds: float = 0.0, fails_until: int = 0) -> TrainTrial:
    """Training of four validations whose loss falls towards |log10(rate) + 3|, a little by its seed; it goes on where it was.

    Args:
        seconds: Of each validation.
        fails_until: Attempts that fail after their second validation.
    """

    def train(
        cfg: RunConfig, *, base_model_dir: Path, workdir: Path, report: Report, adopted: Path | None = None
    ) -> None:
        import math

        done, attempts = workdir / "done", workdir / "attempts"
        attempt = len(attempts.read_text()) + 1 if attempts.exists() else 1
        attempts.write_text("x" * attempt)
        if adopted:
            done.write_text((adopted / "done").read_text())
        for step in range(int(done.read_text()) + 1 if done.exists() else 1, 5):
            time.sleep(seconds)
            loss = abs(math.log10(cfg.train.learning_rate) + 3) + 1 / step + cfg.seed % 7 / 100
            done.write_text(str(step))
            report({"eval_loss": loss, "step": 10 * step, "epoch": step / 2}, _checkpoint(workdir, step))
            if step == 2 and attempt <= fails_until:
                raise OSError(f"attempt {attempt} lost its disk")

    return train


def _checkpoint(workdir: Path, step: int) -> Path:
    checkpoint = workdir / "checkpoint"
    checkpoint.mkdir(exist_ok=True)
    (checkpoint / "done").write_text(str(step))
    return checkpoint


def begun(cfg: RunConfig, directory: Path, train: TrainTrial) -> tuple[TrialSpec, SweepLog]:
    directory.mkdir(parents=True, exist_ok=True)
    return (
        TrialSpec(cfg, directory, directory / "trials", train),
        SweepLog(Journal(directory / "sweep.jsonl", "test"), sweep_of(cfg).metric),
    )


def swept(cfg: RunConfig, directory: Path, train: TrainTrial, concurrent: int = 2) -> tuple[TrialResult, ...]:
    spec, log = begun(cfg, directory, train)
    run_trials(spec, log, concurrent)
    return tuple(trial.result("min") for trial in log.record.drawn)


@pytest.mark.parametrize(
    "searcher", ["optuna", *(pytest.param(name, marks=pytest.mark.slow) for name in ("optuna_gp", "hyperopt"))]
)
def test_searchers_are_told_what_trials_came_to(
    searcher: str, make_config: MakeConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = with_sweep(make_config(), {"searcher": searcher, "scheduler": "none", "num_samples": 8})
    spec, log = begun(cfg, tmp_path / "sweep", stand_in())
    run_trials(spec, log, 2)
    assert [trial.status for trial in log.record.drawn] == ["finished"] * 8
    assert len({trial.params["train.learning_rate"] for trial in log.record.drawn}) == 8
    again = SweepLog(Journal(tmp_path / "sweep" / "sweep.jsonl", "test"), "eval_loss")
    with caplog.at_level("WARNING", logger="luthier.tuning.source"):
        source = TrialSource(again, "eval_loss", "min", [], make_searcher(sweep_of(cfg), cfg.seed), 8)
    assert source.num_left == 0
    assert caplog.messages == []  # it would have proposed the same


@pytest.mark.parametrize("scheduler", ["median", "hyperband"])
def test_schedulers_stop_weak_trials(scheduler: str, make_config: MakeConfig, tmp_path: Path) -> None:
    overrides = {"train.max_steps": 4, "train.eval_steps": 1}
    cfg = with_sweep(make_config(), {"scheduler": scheduler, "num_samples": 8, "overrides": overrides})
    trials = swept(cfg, tmp_path / "sweep", stand_in())
    assert {trial.status for trial in trials} == {"finished", "stopped"}
    losses = {
        status: [t.metric for t in trials if t.status == status and t.metric] for status in ("finished", "stopped")
    }
    if scheduler == "median":  # brackets are halved each by itself, from unlike rungs
        assert min(losses["finished"]) < min(losses["stopped"])
    assert all(len(trial.history) == 4 for trial in trials if trial.status == "finished")
    for trial in trials:
        if trial.status == "stopped":
            assert f"fell behind at validation {len(trial.history)}" in (trial.reason or "")
            assert len(trial.history) < 4


@pytest.mark.slow
def test_a_bracket_goes_on_without_a_trial_that_failed(make_config: MakeConfig, tmp_path: Path) -> None:
    settings = {
        "scheduler": "hyperband",
        "reduction_factor": 2,
        "num_samples": 4,
        "max_trial_failures": 0,
        "budget": {"wall_hours": 60 / 3600},  # were it to wait for ever
        "overrides": {"train.max_steps": 4, "train.eval_steps": 1},
    }
    first = tmp_path / "first"

    def fails_unless_first(cfg: RunConfig, *, workdir: Path, report: Report, **places: Any) -> None:
        """Only the first trial gets past its first validation; it waits for the others."""
        done = workdir / "done"
        for step in range(int(done.read_text()) + 1 if done.exists() else 1, 5):
            if step == 2:
                try:
                    first.mkdir()
                except FileExistsError:
                    time.sleep(3)
                    raise OSError("the disk is gone") from None
            done.write_text(str(step))
            report({"eval_loss": 1 / step, "step": step, "epoch": 1.0}, _checkpoint(workdir, step))

    spec, log = begun(with_sweep(make_config(), settings), tmp_path / "sweep", fails_unless_first)
    assert run_trials(spec, log, 2) is None
    assert [trial.result("min").status for trial in log.record.drawn].count("finished") == 1


def test_a_failed_trial_goes_on_from_where_it_was_within_the_limit(make_config: MakeConfig, tmp_path: Path) -> None:
    cfg = with_sweep(make_config(), {"num_samples": 2, "scheduler": "none", "max_trial_failures": 1})
    once = swept(cfg, tmp_path / "once", stand_in(fails_until=1))
    assert [(trial.status, trial.attempts, [p.validation for p in trial.history]) for trial in once] == [
        ("finished", 2, [1, 2, 3, 4])
    ] * 2
    none = with_sweep(make_config(), {"num_samples": 1, "scheduler": "none", "max_trial_failures": 0})
    (trial,) = swept(none, tmp_path / "none", stand_in(fails_until=9))
    assert (trial.status, trial.attempts, trial.reason) == ("failed", 1, "OSError: attempt 1 lost its disk")


@pytest.mark.parametrize(
    "limit", [{"wall_hours": 12 / 3600}, pytest.param({"accelerator_hours": 10 / 3600}, marks=pytest.mark.slow)]
)
def test_a_sweep_ends_inside_its_budget(limit: dict[str, float], make_config: MakeConfig, tmp_path: Path) -> None:
    cfg = with_sweep(make_config(), {"num_samples": 50, "scheduler": "none", "budget": limit})
    spec, log = begun(cfg, tmp_path / "sweep", stand_in(seconds=2.0))
    ended_by = run_trials(spec, log, 2)
    result = summarize(cfg, log.record, wall_s=log.wall_s, concurrent=2, ended_by=ended_by)
    assert result.spent is not None
    assert result.spent.ended_by == f"budget.{next(iter(limit))}={next(iter(limit.values())):g} is used up"
    assert {trial.status for trial in result.trials} <= {"finished", "stopped", "failed"}
    assert len(result.trials) < 50
    noted_s = max(event.get("wall_s", 0.0) for event in log.past + tuple(_events(tmp_path / "sweep")))
    assert "accelerator_hours" in limit or noted_s <= 12
    assert "wall_hours" in limit or 4 < result.spent.cpu_hours * 3600 <= 10
    assert sum(result.spent.by_status.values()) == pytest.approx(result.spent.cpu_hours)


def _events(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "sweep.jsonl").read_text().splitlines()]


def test_finalists_are_repeated_with_other_seeds_and_ranked_by_their_mean(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    cfg = with_sweep(make_config(), {"num_samples": 4, "scheduler": "none", "seeds": 3, "finalists": 2})
    spec, log = begun(cfg, tmp_path / "sweep", stand_in())
    assert run_trials(spec, log, 2) is None
    assert repeat_finalists(spec, log, 2) is None
    result = summarize(cfg, log.record, wall_s=1.0, concurrent=2)
    assert len(result.trials) == 4
    assert [len(one.values) for one in result.finalists] == [3, 3]
    assert result.best_trial_id == result.finalists[0].trial_id
    assert result.finalists[0].mean < result.finalists[1].mean
    assert all(one.low < one.mean < one.high for one in result.finalists)
    assert result.spent is not None
    assert result.spent.trials == 8
    assert result.spent.by_status["seeds"] > 0
    seeds = [trial.params["seed"] for trial in log.record.trials.values() if trial.repeats is not None]
    assert seeds == [cfg.seed + 1, cfg.seed + 2] * 2
    again = SweepLog(Journal(tmp_path / "sweep" / "sweep.jsonl", "test"), "eval_loss")
    assert repeat_finalists(spec, again, 2) is None  # nothing is left to do
    assert len(again.record.trials) == 8


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)


def plant_pickles(sweep: Path, bomb: Bomb) -> None:
    """Wherever Ray Tune or a trial leaves one, and where they would look for one."""
    found = [path for path in sweep.rglob("*") if path.suffix in (".pkl", ".pt", ".pickle")]
    expected = [sweep / "ray" / "tune" / name for name in ("tuner.pkl", "trainable.pkl", "searcher-state-1.pkl")]
    for path in (*found, *expected):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps(bomb))


def test_a_sweep_that_ended_is_not_run_again_and_nothing_is_unpickled(make_config: MakeConfig, tmp_path: Path) -> None:
    cfg = with_sweep(make_config(), {"num_samples": 3})
    first = swept(cfg, tmp_path / "sweep", stand_in())
    plant_pickles(tmp_path / "sweep", Bomb(tmp_path / "went-off"))
    attempts = {path: path.stat().st_mtime_ns for path in tmp_path.glob("sweep/trials/*/attempts")}
    assert swept(cfg, tmp_path / "sweep", stand_in()) == first
    assert {path: path.stat().st_mtime_ns for path in attempts} == attempts
    more = swept(with_sweep(make_config(), {"num_samples": 5}), tmp_path / "sweep", stand_in())
    assert more[:3] == first
    assert len(more) == 5
    assert not (tmp_path / "went-off").exists()
    pickle.loads(pickle.dumps(Bomb(tmp_path / "went-off")))
    assert (tmp_path / "went-off").exists()  # it would have


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", ["pbt", "pb2"])
def test_a_population_exchanges_real_weights(
    scheduler: str, make_config: MakeConfig, shallow_base_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    space = {"train.learning_rate": {"type": "loguniform", "low": 1e-6, "high": 1e-2}}
    if scheduler == "pb2":
        space = {"train.learning_rate": {"type": "uniform", "low": 1e-6, "high": 1e-2}}
    overrides = {"train.num_workers": 1, "train.max_steps": 12, "train.eval_steps": 2}
    settings = {"search_space": space, "scheduler": scheduler, "num_samples": 4, "overrides": overrides}
    cfg = with_sweep(make_config(lora_r=4), settings)
    result = tune(cfg, workdir=tmp_path / "sweep", base_model_dir=shallow_base_dir)
    assert [trial.status for trial in result.trials] == ["finished"] * 4
    changes = [event for event in _events(tmp_path / "sweep") if event["event"] == "changed"]
    assert changes
    for trial in result.trials:
        steps = [point.step for point in trial.history]
        assert steps == sorted(set(steps))
        assert steps[-1] == 12
    drawn = {event["trial"]: event["params"] for event in _events(tmp_path / "sweep") if event["event"] == "drawn"}
    changed = changes[0]
    assert changed["params"] != drawn[changed["trial"]]
    first_losses = sorted(trial.history[0].value for trial in result.trials)
    last_losses = sorted(trial.history[-1].value for trial in result.trials)
    assert last_losses[-1] < first_losses[-1]  # also the weakest learnt from the others
    assert not list((tmp_path / "sweep").rglob("*.safetensors"))
    assert "Error handling checkpoint" not in capfd.readouterr().err
