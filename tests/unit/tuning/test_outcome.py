"""The winner, the leaderboard and the files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from luthier.config import RunConfig, load_config
from luthier.errors import LuthierError, OutputError, ResourceError
from luthier.sweep_schema import MetricPoint, SweepResult, TrialResult
from luthier.tuning.concurrency import max_concurrent
from luthier.tuning.leaderboard import leaderboard_table, write_outcome
from luthier.tuning.record import SweepRecord
from luthier.tuning.recorder import failure_reason
from luthier.tuning.summary import summarize
from luthier.tuning.tuner import tune, winning_config


def config(**train: Any) -> RunConfig:
    space = {"train.learning_rate": {"type": "loguniform", "low": 1e-5, "high": 1e-2}}
    return RunConfig.model_validate(
        {
            "name": "demo",
            "model": {"model_name_or_path": "some/model"},
            "datasets": [{"train": "train.jsonl", "validation": "validation.jsonl"}],
            "train": train,
            "tune": {
                "search_space": space,
                "overrides": {"train.max_steps": 3},
                "num_samples": 8,
            },
        }
    )


def trial(number: int, metric: float | None, status: str = "finished", reason: str | None = None) -> TrialResult:
    return TrialResult.model_validate(
        {
            "trial_id": f"trial-{number:03d}",
            "params": {"train.learning_rate": number * 1e-4},
            "metric": metric,
            "status": status,
            "reason": reason,
            "wall_s": 1.0,
            "history": () if metric is None else (MetricPoint(step=1, epoch=0.5, value=metric),),
        }
    )


def record_of(trials: Sequence[TrialResult]) -> SweepRecord:
    """What a sweep would have noted of these trials."""
    events: list[dict[str, Any]] = []
    for number, one in enumerate(trials, start=1):
        events.append({"event": "drawn", "trial": number, "params": one.params})
        for count, point in enumerate(one.history, start=1):
            metrics = {"eval_loss": point.value}
            place = {"step": point.step, "epoch": point.epoch, "validation": count}
            events.append({"event": "validated", "trial": number, "metrics": metrics, **place})
        events.append({"event": "ended", "trial": number, "status": one.status, "reason": one.reason})
    return SweepRecord("eval_loss", events)


@pytest.mark.parametrize(("mode", "winner"), [("min", "trial-002"), ("max", "trial-001")])
def test_the_winner_follows_the_mode(mode: str, winner: str) -> None:
    trials = (trial(1, 0.9), trial(2, 0.5), trial(3, 0.7, "stopped"))
    cfg = config()
    assert cfg.tune is not None
    # No metric of today is maximised, so the config would refuse it.
    cfg = cfg.model_copy(update={"tune": cfg.tune.model_copy(update={"mode": mode})})
    result = summarize(cfg, record_of(trials), wall_s=1.0, concurrent=1)
    assert result.best_trial_id == winner
    assert result.winning_overrides == result.best.params


def test_a_failed_trial_never_wins_whatever_it_had_reported() -> None:
    trials = (trial(1, 0.1, "failed", "ValueError: x"), trial(2, 0.5), trial(3, None, "failed", "y"))
    result = summarize(config(), record_of(trials), wall_s=1.0, concurrent=1)
    assert result.best_trial_id == "trial-002"
    assert result.ranked()[0].trial_id == "trial-002"


def test_all_failed_lists_every_reason() -> None:
    trials = (trial(1, None, "failed", "ValueError: first"), trial(2, None, "failed", "OSError: second"))
    with pytest.raises(LuthierError) as raised:
        summarize(config(), record_of(trials), wall_s=1.0, concurrent=1)
    assert "ValueError: first" in str(raised.value)
    assert "OSError: second" in str(raised.value)
    assert raised.value.exit_code == 1


def test_outcome_files_load_back(tmp_path: Path) -> None:
    cfg = config()
    result = summarize(cfg, record_of((trial(1, 0.9), trial(2, 0.5))), wall_s=1.0, concurrent=2)
    write_outcome(cfg, result, tmp_path)
    assert SweepResult.model_validate_json((tmp_path / "leaderboard.json").read_text()) == result
    winner = load_config(tmp_path / "winner.yaml")
    assert winner == winning_config(cfg, result)
    assert winner.train.learning_rate == pytest.approx(2e-4)
    assert winner.train.max_steps is None  # the sweep's override is not part of the winner
    assert winner.tune is None
    assert json.loads((tmp_path / "leaderboard.json").read_text())["best_trial_id"] == "trial-002"
    assert {path.name for path in tmp_path.iterdir()} == {
        "leaderboard.json",
        "leaderboard.csv",
        "leaderboard.parquet",
        "winner.yaml",
        "sweep.html",
    }


def test_an_unwritable_place_is_named(tmp_path: Path) -> None:
    result = summarize(config(), record_of((trial(1, 0.9),)), wall_s=1.0, concurrent=1)
    with pytest.raises(OutputError, match="nowhere"):
        write_outcome(config(), result, tmp_path / "nowhere")


def test_the_table_shows_the_winner_first_and_every_failure() -> None:
    trials = (trial(1, 0.9), trial(2, 0.5), trial(3, None, "failed", "ValueError: [bad] rank"))
    console = Console(width=100, record=True, force_terminal=False)
    console.print(leaderboard_table(summarize(config(), record_of(trials), wall_s=1.0, concurrent=1)))
    text = console.export_text()
    assert text.index("trial-002") < text.index("trial-001") < text.index("trial-003")
    assert "0.5000" in text
    assert "ValueError: [bad] rank" in text


@pytest.mark.parametrize(
    ("train", "resources", "expected"),
    [
        ({}, {"CPU": 2.0}, 2),
        ({}, {"CPU": 64.0}, 8),  # never more than there are trials
        ({"num_workers": 2}, {"CPU": 5.0}, 2),
        ({"resources_per_worker": {"CPU": 1, "GPU": 1}}, {"CPU": 64.0, "GPU": 3.0}, 3),
        ({"resources_per_worker": {"CPU": 0.5}}, {"CPU": 1.0}, 2),
    ],
)
def test_concurrency_fills_the_cluster(train: dict[str, Any], resources: dict[str, float], expected: int) -> None:
    assert max_concurrent(config(**train), resources) == expected


def test_a_range_over_data_settings_leaves_room_for_the_tokeniser() -> None:
    cfg = config()
    space = {"data.max_length": {"type": "randint", "low": 64, "high": 128}}
    ranged = cfg.model_validate({**cfg.model_dump(), "tune": {"search_space": space, "num_samples": 8}})
    assert (max_concurrent(cfg, {"CPU": 4.0}), max_concurrent(ranged, {"CPU": 4.0})) == (4, 2)


def test_a_trial_larger_than_the_cluster_is_refused() -> None:
    with pytest.raises(ResourceError, match=r"needs 4 CPU, the cluster has 2.*lower train\.num_workers"):
        max_concurrent(config(num_workers=4), {"CPU": 2.0})


def test_a_sweep_without_a_session_is_refused_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="no Ray session"):
        tune(config(), workdir=tmp_path / "sweep", base_model_dir=tmp_path)
    assert not (tmp_path / "sweep").exists()


def test_the_reason_is_the_last_exception_of_a_traceback() -> None:
    text = (
        "ray::ImplicitFunc.train()\n  File 'x.py', line 1, in f\n    raise KeyError('no: k')\n"
        "KeyError: 'no: k'\n\n"
        "The above exception was the direct cause of the following exception:\n\n"
        "ray.exceptions.RayTaskError(TrainingDiverged): ray::train()\n"
        "luthier.errors.TrainingDiverged: step 3: the loss is nan; lower train.learning_rate.\n"
    )
    assert failure_reason(text) == "TrainingDiverged: step 3: the loss is nan; lower train.learning_rate."
    assert "without a word" in failure_reason("")
