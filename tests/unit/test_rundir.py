"""A run's directory: continued when cut off, kept when ended, one process's own, and not left behind by bad input."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from luthier.config import RunConfig, apply_overrides, load_config
from luthier.errors import DataError, OutputError, TrainingDiverged
from luthier.rundir import api_key, close_run, newest_artifact, run_directory


def visit(cfg: RunConfig, verb: str = "run", *, result: dict[str, str] | None = None) -> Path:
    """Enter and leave a run's directory."""
    with run_directory(cfg, verb) as workdir:
        if result is not None:
            close_run(workdir, result)
    return workdir


def test_an_unfinished_run_is_continued_and_an_ended_one_is_not(quickstart: RunConfig) -> None:
    first = visit(quickstart)
    assert visit(quickstart, result={"status": "done"}) == first
    assert load_config(first / "config.yaml") == quickstart
    second = visit(quickstart)
    assert second != first
    assert visit(apply_overrides(quickstart, {"seed": 7})) not in (first, second)
    assert (first / "result.json").exists()


def test_another_verb_or_changed_data_is_another_run(quickstart: RunConfig, tmp_path: Path) -> None:
    data = tmp_path / "train.jsonl"
    data.write_text('{"text": "a", "label": "b"}\n')
    cfg = apply_overrides(quickstart, {"datasets.0.train": str(data)})
    first = visit(cfg)
    assert visit(cfg, "train") != first
    assert visit(cfg) == first
    data.write_text('{"text": "changed", "label": "b"}\n')
    assert visit(cfg) not in (first, visit(cfg, "train"))


def test_two_runs_at_a_time_do_not_share_a_directory(quickstart: RunConfig) -> None:
    with run_directory(quickstart, "run") as first, run_directory(quickstart, "run") as second:
        assert first != second
    assert visit(quickstart) == first


@pytest.mark.parametrize("error", [DataError("x"), OutputError("x")])
def test_bad_input_leaves_no_directory(error: Exception, quickstart: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(type(error)), run_directory(quickstart, "run") as workdir:
        (workdir / "train").mkdir()
        raise error
    assert list(tmp_path.iterdir()) == []


def test_bad_input_takes_nothing_that_was_there_before(quickstart: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    with pytest.raises(DataError), run_directory(quickstart, "run"):
        raise DataError("x")
    assert list(tmp_path.rglob("*")) == [tmp_path / "runs"]
    cut_off = visit(quickstart)
    with pytest.raises(DataError), run_directory(quickstart, "run"):
        raise DataError("x")
    assert cut_off.is_dir()


def test_what_was_made_is_kept(quickstart: RunConfig) -> None:
    with pytest.raises(TrainingDiverged), run_directory(quickstart, "run") as workdir:
        raise TrainingDiverged("x")
    assert workdir.is_dir()
    with pytest.raises(DataError), run_directory(apply_overrides(quickstart, {"seed": 7}), "run") as workdir:
        (workdir / "sweep.json").write_text("{}")
        raise DataError("x")
    assert (workdir / "sweep.json").exists()


def test_storage_below_a_file_is_refused(quickstart: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cfg = apply_overrides(quickstart, {"storage_path": str(tmp_path / "file" / "runs")})
    with pytest.raises(OutputError, match=r"storage_path: .*file/runs' can't be written"), run_directory(cfg, "run"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_newest_artifact_of_this_config_is_found(quickstart: RunConfig) -> None:
    assert newest_artifact(quickstart) is None
    made = []
    for moment in (100, 50):
        manifest = visit(quickstart, result={}) / "train" / "artifact" / "manifest.json"
        manifest.parent.mkdir(parents=True)
        manifest.touch()
        os.utime(manifest, (moment, moment))
        made.append(manifest.parent)
    assert newest_artifact(quickstart) == made[0]
    judged_otherwise = {"evaluate.limit": 50, "gate.min_value": 0.5, "datasets.0.test": "other.jsonl"}
    assert newest_artifact(apply_overrides(quickstart, judged_otherwise)) == made[0]
    assert newest_artifact(apply_overrides(quickstart, {"seed": 7})) is None
    assert newest_artifact(apply_overrides(quickstart, {"train.max_steps": 7})) is None


def test_a_key_is_made_for_the_owner_alone_unless_there_is_one(
    quickstart: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = quickstart.serve.api_key_env
    monkeypatch.setenv(name, "mine")
    with api_key(quickstart, tmp_path) as path:
        assert path is None
    assert os.environ[name] == "mine"
    monkeypatch.setenv(name, "")
    with api_key(quickstart, tmp_path) as path:
        assert path is not None
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert os.environ[name] == path.read_text()
        assert len(path.read_text()) >= 32
    assert name not in os.environ
    assert list(tmp_path.iterdir()) == []
