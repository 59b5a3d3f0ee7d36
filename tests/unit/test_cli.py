"""The command line: instant help, one JSON object, and errors as one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from luthier.cli.app import app
from luthier.cli.options import emit
from luthier.config import config_hash, json_schema, load_config

ROOT = Path(__file__).parents[2]
QUICKSTART = "configs/quickstart.yaml"
VERBS = (
    *("run", "train", "tune", "evaluate", "serve", "plan", "export", "schema", "data", "models"),
    *("cluster", "keys"),
    *("submit", "status", "logs", "stop", "preflight"),
)


def python(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, **(environment or {})}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=120, check=False)


def luthier(
    *arguments: str, flags: tuple[str, ...] = (), environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return python(*flags, "-m", "luthier.cli", *arguments, environment=environment)


def test_help_names_every_verb_and_imports_nothing_heavy() -> None:
    done = luthier("--help", flags=("-X", "importtime"))
    assert done.returncode == 0
    assert [verb for verb in VERBS if f" {verb} " not in done.stdout] == []
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert "typer" in imported  # the listing was read
    assert imported & {"torch", "ray", "pydantic", "transformers", "vllm", "numpy", "yaml", "rich"} == set()


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str) -> None:
    shown = CliRunner().invoke(app, [verb, "--help"])
    assert shown.exit_code == 0
    assert "Usage: " in shown.stdout


def test_schema_is_the_configs() -> None:
    for flags in ((), ("--json",)):
        assert json.loads(luthier("schema", *flags).stdout) == json_schema()


@pytest.mark.parametrize("verb", [("run",), ("data", "check"), ("submit",)], ids=" ".join)
def test_a_dry_run_prints_config_and_plan_and_does_nothing(verb: tuple[str, ...], tmp_path: Path) -> None:
    overrides = [f"storage_path={tmp_path / 'runs'}", f"registry.uri={tmp_path / 'registry'}", "seed=7"]
    done = luthier(*verb, QUICKSTART, *overrides, "--dry-run", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    facts: dict[str, Any] = json.loads(done.stdout)
    cfg = load_config(ROOT / QUICKSTART, overrides)
    assert facts["config"] == cfg.model_dump(mode="json")
    assert facts["config_hash"] == facts["plan"]["config_hash"] == config_hash(cfg)
    assert facts["plan"]["data"]["rows"] == cfg.data.max_train_samples == 480
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_for_people_ends_with_a_config_that_loads(tmp_path: Path) -> None:
    done = luthier("run", QUICKSTART, "seed=7", "--dry-run")
    assert done.returncode == 0
    table, _, resolved = done.stdout.partition("# config hash ")
    assert " 480 " in table
    (tmp_path / "again.yaml").write_text("# " + resolved)
    again = load_config(tmp_path / "again.yaml")
    assert again == load_config(ROOT / QUICKSTART, ["seed=7"])
    assert resolved.startswith(config_hash(again))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train", QUICKSTART, "train.lora_rank=4"], "error: override 'train.lora_rank=4': unknown key"),
        (["train", "no.yaml"], "error: config file 'no.yaml' does not exist"),
        (["submit", QUICKSTART, "--verb", "dance"], "error: --verb is 'dance'; it must be one of"),
        (["models", "show", "nobody@1", "--registry", "/tmp/no-registry-here"], "error: "),
        (["train"], "Missing argument 'CONFIG'"),
        (["serve"], "--config"),
        (["serve", "nobody@1", "--config", QUICKSTART], "error: nobody@1: no model 'nobody'"),
        (["plan", QUICKSTART, "--address", "http://127.0.0.1:1"], "answers at http://127.0.0.1:1"),
        (
            ["run", QUICKSTART, "tune.search_space.train.lora_rank={type: choice, values: [1]}", "--dry-run"],
            "lora_rank",
        ),
        (["dance"], "No such command 'dance'"),
    ],
)
def test_bad_arguments_exit_with_2_and_no_traceback(arguments: list[str], expected: str) -> None:
    done = luthier(*arguments)
    assert done.returncode == 2
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_the_environment_names_the_cluster_unless_the_command_does() -> None:
    for arguments, named in (((), ":2;"), (("--address", "http://127.0.0.1:1"), ":1;")):
        done = luthier("status", *arguments, environment={"RAY_ADDRESS": "http://127.0.0.1:2"})
        assert (done.returncode, "127.0.0.1" + named in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize("wanted", ["", "1"])
def test_an_unforeseen_error_is_one_line_unless_its_place_is_wanted(wanted: str) -> None:
    code = (
        "import luthier.cli.app as app; from luthier.cli import main\n"
        "def fail(**_): raise KeyError('first\\nsecond')\n"
        "app.app = fail; main()"
    )
    done = python("-c", code, environment={"LUTHIER_TRACEBACK": wanted})
    assert done.returncode == 1
    assert ("Traceback" in done.stderr) == bool(wanted)
    if not wanted:
        assert done.stderr.startswith("error: unexpected KeyError: ")
        assert "LUTHIER_TRACEBACK=1" in done.stderr
        assert done.stderr.count("\n") == 1


def test_text_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    text = "/data/[bold]x " + "long " * 60 + "[/INST]"
    emit({}, as_json=False, text=text)
    assert capsys.readouterr().out == f"{text}\n"


def test_models_of_an_empty_registry_are_an_empty_list(tmp_path: Path) -> None:
    done = luthier("models", "list", "--registry", str(tmp_path), "--json")
    assert (done.returncode, json.loads(done.stdout)) == (0, [])


def test_a_reader_that_has_seen_enough_causes_no_complaint() -> None:
    command = f"{sys.executable} -m luthier.cli schema | head -c 10"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    assert done.stdout.startswith("{")
