"""The command of a sweep is killed at random moments and given again: no trial is lost, repeated, or left running."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from luthier.config import RunConfig, dump_yaml
from luthier.sweep_schema import SweepResult
from luthier.tuning.journal import FILE_NAME
from luthier.tuning.proposing import make_searcher
from tests.chaos.conftest import ConfigAt
from tests.chaos.test_driver import is_running

NUM_TRIALS = 8
STEPS = [2, 4, 6]
PATIENCE_S = 240.0

SWEEP: dict[str, Any] = {
    "num_samples": NUM_TRIALS,
    "search_space": {
        "train.learning_rate": {"type": "loguniform", "low": 1e-5, "high": 1e-2},
        "train.lora_r": {"type": "choice", "values": [2, 4]},
    },
    "overrides": {"train.max_steps": STEPS[-1], "train.eval_steps": STEPS[0], "train.save_steps": STEPS[0]},
}


def command_for(cfg: RunConfig, base_model_dir: Path, directory: Path, **algorithms: str) -> list[str]:
    """The command line of a user whose model is a local directory."""
    described = cfg.model_dump(mode="json")
    described["model"]["model_name_or_path"] = str(base_model_dir)
    described["cluster"]["num_cpus"] = 2
    described["tune"] = {**SWEEP, **algorithms}
    path = directory / "sweep.yaml"
    path.write_text(dump_yaml(RunConfig.model_validate(described)), encoding="utf-8")
    return [sys.executable, "-m", "luthier.cli", "tune", str(path), "--json"]


def events_in(cfg: RunConfig) -> list[dict[str, Any]]:
    path = next(Path(cfg.storage_path).glob(f"*/sweep/{FILE_NAME}"), None)
    lines = path.read_text(encoding="utf-8").splitlines() if path else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def kill_after(num_events: int, command: list[str], cfg: RunConfig, log: Path) -> None:
    """SIGKILL the command once it has noted so many events in all, and wait until its workers are gone."""
    with log.open("wb") as stream:
        driver = subprocess.Popen(command, stdout=stream, stderr=stream)
    deadline = time.monotonic() + PATIENCE_S
    while len(events_in(cfg)) < num_events:
        assert driver.poll() is None and time.monotonic() < deadline, log.read_text()[-4000:]
        time.sleep(0.02)
    of_session = [one for one in psutil.Process(driver.pid).children(recursive=True) if "Agent" not in one.name()]
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    killed_at = time.monotonic()
    while left := [process for process in of_session if is_running(process)]:
        assert time.monotonic() - killed_at < 30, left
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("seed", "searcher", "scheduler"),
    [
        (1, "random", "none"),
        pytest.param(2, "random", "none", marks=pytest.mark.slow),
        pytest.param(3, "optuna", "none", marks=pytest.mark.slow),
        pytest.param(4, "hyperopt", "none", marks=pytest.mark.slow),
        pytest.param(5, "random", "asha", marks=pytest.mark.slow),
    ],
)
def test_a_killed_sweep_goes_on_without_losing_or_repeating_a_trial(
    seed: int, searcher: str, scheduler: str, config_at: ConfigAt, shallow_base_dir: Path, tmp_path: Path
) -> None:
    cfg = config_at(tmp_path, num_workers=1, lora_dropout=0.0, log_samples=False)
    command = command_for(cfg, shallow_base_dir, tmp_path, searcher=searcher, scheduler=scheduler)
    moments = sorted(random.Random(seed).sample(range(3, 34), 2))
    for number, moment in enumerate(moments):
        kill_after(moment + 2 * number, command, cfg, tmp_path / f"killed-{number}.log")
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr[-4000:]
    result = SweepResult.model_validate(json.loads(done.stdout.splitlines()[-1]))
    events = events_in(cfg)
    of_kind = {kind: [event for event in events if event["event"] == kind] for kind in ("opened", "drawn", "ended")}
    assert len(of_kind["opened"]) == 3
    for kind in ("drawn", "ended"):
        assert sorted(event["trial"] for event in of_kind[kind]) == list(range(1, NUM_TRIALS + 1))
    assert {trial.status for trial in result.trials} == {"finished"} | ({"stopped"} if scheduler == "asha" else set())
    for trial in result.trials:
        steps = [point.step for point in trial.history]
        assert steps == STEPS[: len(steps)] and (trial.status == "stopped" or steps == STEPS)
        assert [point.validation for point in trial.history] == list(range(1, len(steps) + 1))
    if searcher == "random":  # what is drawn does not depend on when the command died
        tune = RunConfig.model_validate({**cfg.model_dump(mode="json"), "tune": SWEEP}).tune
        assert tune is not None
        source = make_searcher(tune, cfg.seed)
        assert [trial.params for trial in result.trials] == [source.suggest(str(n)) for n in range(NUM_TRIALS)]
    assert result.spent is not None
    assert result.spent.wall_s > max(event.get("wall_s", 0.0) for event in events)
    assert done.stderr.count("would propose other values") == 0
