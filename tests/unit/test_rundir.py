"""A run's directory: continued when cut off, kept when ended, and not left behind by bad input."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from luthier.config import RunConfig, apply_overrides, load_config
from luthier.errors import DataError, OutputError, TrainingDiverged
from luthier.rundir import api_key_file, close_run, newest_artifact, open_run, run_directory


def test_an_unfinished_run_is_continued_and_an_ended_one_is_not(quickstart: RunConfig) -> None:
    first = open_run(quickstart)
    assert open_run(quickstart) == first
    assert load_config(first / "config.yaml") == quickstart
    close_run(first, {"status": "done"})
    second = open_run(quickstart)
    assert second != first
    assert open_run(apply_overrides(quickstart, {"seed": 7})) not in (first, second)
    assert (first / "result.json").exists()


@pytest.mark.parametrize("error", [DataError("x"), OutputError("x")])
def test_bad_input_leaves_no_directory(error: Exception, quickstart: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(type(error)), run_directory(quickstart) as workdir:
        (workdir / "train").mkdir()
        raise error
    assert list(tmp_path.iterdir()) == []


def test_bad_input_takes_nothing_that_was_there_before(quickstart: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    with pytest.raises(DataError), run_directory(quickstart):
        raise DataError("x")
    assert list(tmp_path.rglob("*")) == [tmp_path / "runs"]


def test_what_was_made_is_kept(quickstart: RunConfig) -> None:
    with pytest.raises(TrainingDiverged), run_directory(quickstart) as workdir:
        raise TrainingDiverged("x")
    assert workdir.is_dir()
    with pytest.raises(DataError), run_directory(quickstart) as workdir:
        (workdir / "sweep.json").write_text("{}")
        raise DataError("x")
    assert (workdir / "sweep.json").exists()


def test_storage_below_a_file_is_refused(quickstart: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cfg = apply_overrides(quickstart, {"storage_path": str(tmp_path / "file" / "runs")})
    with pytest.raises(OutputError, match=r"storage_path: .*file/runs' can't be written"), run_directory(cfg):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_newest_artifact_of_this_config_is_found(quickstart: RunConfig) -> None:
    assert newest_artifact(quickstart) is None
    made = []
    for moment in (100, 50):
        manifest = open_run(quickstart) / "train" / "artifact" / "manifest.json"
        manifest.parent.mkdir(parents=True)
        manifest.touch()
        os.utime(manifest, (moment, moment))
        close_run(manifest.parents[2], {})
        made.append(manifest.parent)
    assert newest_artifact(quickstart) == made[0]
    assert newest_artifact(apply_overrides(quickstart, {"seed": 7})) is None


def test_a_key_is_made_for_the_owner_alone_unless_there_is_one(
    quickstart: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = quickstart.serve.api_key_env
    monkeypatch.setenv(name, "mine")
    assert api_key_file(quickstart, tmp_path) is None
    monkeypatch.setenv(name, "")
    path = api_key_file(quickstart, tmp_path)
    assert path is not None
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.environ[name] == path.read_text()
    assert len(path.read_text()) >= 32
