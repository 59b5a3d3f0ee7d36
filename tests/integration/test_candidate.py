"""``luthier tune --register``: the winner at full length, judged on the test split, in the registry without an alias."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from luthier.config import RunConfig, apply_overrides, dump_yaml, load_config
from luthier.registry import Registry
from luthier.sweep_schema import SweepResult


@pytest.mark.slow
def test_the_winner_of_a_sweep_is_registered_as_a_candidate(quickstart: RunConfig, tmp_path: Path) -> None:
    settings = {
        "data.max_train_samples": 240,
        "data.max_eval_samples": 32,
        "tune.num_samples": 2,
        "gate.against": ["base"],
        "evaluate.limit": 100,
    }
    cfg = apply_overrides(quickstart, settings)
    path = tmp_path / "run.yaml"
    path.write_text(dump_yaml(cfg), encoding="utf-8")
    command = [sys.executable, "-m", "luthier.cli", "tune", str(path), "--register", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-4000:]
    result = SweepResult.model_validate(json.loads(done.stdout.splitlines()[-1]))
    version = Registry(cfg.registry.uri, cfg.registry.alias).resolve(str(result.registered_as))
    assert (version.ref, version.aliases) == ("debian-sections@1", ())
    assert version.manifest.metrics["step"] == 15  # all rows, and not a trial's 4 steps
    trained = load_config(Path(version.uri) / "config.yaml")
    assert trained.train.learning_rate == result.winning_overrides["train.learning_rate"]
    assert (Path(version.uri) / "adapter").is_dir()
    trials = tmp_path.glob("runs/*/sweep/trials/*")
    assert {path.name for trial in trials for path in trial.iterdir()} == {
        "metrics.jsonl",
        "tensorboard",
        "validations.json",
    }
    (report,) = tmp_path.glob("runs/*/report.html")
    assert result.best_trial_id in report.read_text(encoding="utf-8")
