"""The command line: instant help, one JSON object, and errors as one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from luthier.config import config_hash, json_schema, load_config

ROOT = Path(__file__).parents[2]
QUICKSTART = "configs/quickstart.yaml"
VERBS = (
    *("run", "train", "tune", "evaluate", "serve", "plan", "export", "schema", "data", "models"),
    *("submit", "status", "logs", "stop"),
)


def luthier(*arguments: str, flags: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *flags, "-m", "luthier.cli", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_help_names_every_verb_and_imports_nothing_heavy() -> None:
    done = luthier("--help", flags=("-X", "importtime"))
    assert done.returncode == 0
    assert [verb for verb in VERBS if f" {verb} " not in done.stdout] == []
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert "typer" in imported  # the listing was read
    assert imported & {"torch", "ray", "pydantic", "transformers", "vllm", "numpy", "yaml"} == set()


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str) -> None:
    done = luthier(verb, "--help")
    assert done.returncode == 0
    assert "Usage: " in done.stdout


def test_schema_is_the_configs() -> None:
    assert json.loads(luthier("schema").stdout) == json_schema()


@pytest.mark.parametrize("verb", [("run",), ("data", "check"), ("submit",)], ids=" ".join)
def test_a_dry_run_prints_config_and_plan_and_does_nothing(verb: tuple[str, ...], tmp_path: Path) -> None:
    overrides = [f"storage_path={tmp_path / 'runs'}", f"registry.uri={tmp_path / 'registry'}", "seed=7"]
    done = luthier(*verb, QUICKSTART, *overrides, "--dry-run", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    facts: dict[str, Any] = json.loads(done.stdout)
    cfg = load_config(ROOT / QUICKSTART, overrides)
    assert facts["config"] == cfg.model_dump(mode="json")
    assert facts["config_hash"] == facts["plan"]["config_hash"] == config_hash(cfg)
    assert facts["plan"]["data"]["rows"] == 1814
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_for_people_ends_with_a_config_that_loads(tmp_path: Path) -> None:
    done = luthier("run", QUICKSTART, "seed=7", "--dry-run")
    assert done.returncode == 0
    table, _, resolved = done.stdout.partition("# config hash ")
    assert "1,814" in table
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
        (["dance"], "No such command 'dance'"),
    ],
)
def test_bad_arguments_exit_with_2_and_no_traceback(arguments: list[str], expected: str) -> None:
    done = luthier(*arguments)
    assert done.returncode == 2
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_models_of_an_empty_registry_are_an_empty_list(tmp_path: Path) -> None:
    done = luthier("models", "list", "--registry", str(tmp_path), "--json")
    assert (done.returncode, json.loads(done.stdout)) == (0, [])


def test_a_reader_that_has_seen_enough_causes_no_complaint() -> None:
    command = f"{sys.executable} -m luthier.cli schema | head -c 10"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    assert done.stdout.startswith("{")
