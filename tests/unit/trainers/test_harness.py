"""Tasks of lm-evaluation-harness: how they are named, read and refused, and a real one where the harness is installed."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from luthier.config import RunConfig, apply_overrides, with_absolute_paths
from luthier.config.harness import HarnessConfig
from luthier.errors import ConfigError
from luthier.trainers.evaluation import render_report
from luthier.trainers.harness import check_harness, measure, tasks_of
from tests.unit.artifacts import make_evaluation
from tests.unit.judged import labelled_config

installed = pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="needs lm-eval")
TASK = """
task: greater
dataset_path: json
dataset_kwargs: {data_files: {test: PLACE}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}} Answer:"
doc_to_choice: ["yes", "no"]
doc_to_target: label
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
metadata: {version: 2.0}
"""
FOUND = {
    "results": {
        "greater": {
            "alias": "greater",
            "acc,none": 0.5,
            "acc_stderr,none": 0.25,
            "ppl,none": 3,
            "ppl_stderr,none": "N/A",
        }
    },
    "versions": {"greater": 2.0},
    "n-samples": {"greater": {"original": 9, "effective": 4}},
}


def test_a_list_is_the_tasks() -> None:
    assert HarnessConfig.model_validate(["a", "b"]).tasks == ("a", "b")
    assert HarnessConfig.model_validate({"tasks": ["a"], "limit": 3}).limit == 3
    refused: tuple[object, ...] = ("a", [], {"tasks": []})
    for wrong in refused:
        with pytest.raises(ValidationError):
            HarnessConfig.model_validate(wrong)


def test_what_the_harness_tells() -> None:
    found = tasks_of({"base": FOUND, "tuned": FOUND})
    assert list(found) == ["greater"]
    assert (found["greater"].version, found["greater"].n) == ("2.0", 4)
    figures = found["greater"].variants["tuned"]
    assert (figures["acc,none"].value, figures["acc,none"].stderr) == (0.5, 0.25)
    assert (figures["ppl,none"].value, figures["ppl,none"].stderr) == (3.0, None)
    assert set(figures) == {"acc,none", "ppl,none"}
    page = render_report(title="h", evaluation=make_evaluation().model_copy(update={"harness": found}))
    assert "0.500 <small>± 0.250</small>" in page


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is not None, reason="lm-eval is installed")
def test_without_the_harness_the_extra_is_named() -> None:
    with pytest.raises(ConfigError, match=r"pip install 'luthier\[harness\]'"):
        check_harness(HarnessConfig(tasks=("hellaswag",)), offline=True)


def test_where_tasks_lie_and_who_can_be_asked(
    quickstart: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = apply_overrides(quickstart, {"evaluate.harness": {"tasks": ["a"], "include_path": "tasks"}})
    harness = with_absolute_paths(given).evaluate.harness
    assert harness is not None
    assert harness.include_path == str(tmp_path / "tasks")
    with pytest.raises(ValidationError, match="objective: classification gives none"):
        labelled_config(
            tmp_path, [], evaluate={"harness": ["a"], "few_shot_k": 0}, train={"objective": "classification"}
        )


@installed
def test_a_local_task_of_the_real_model(
    quickstart: RunConfig, shallow_base_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE"):
        monkeypatch.setenv(name, "1")
    rows = [{"question": f"Is {n} greater than 3?", "label": "yes" if n > 3 else "no"} for n in range(6)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "greater.yaml").write_text(TASK.replace("PLACE", str(tmp_path / "rows.jsonl")), encoding="utf-8")
    given = {"tasks": ["greater"], "include_path": str(tmp_path), "limit": 4}
    cfg = apply_overrides(quickstart, {"evaluate.harness": given})
    assert cfg.evaluate.harness is not None
    check_harness(cfg.evaluate.harness, offline=True)
    found = tasks_of({"base": measure(cfg, shallow_base_dir, None)})["greater"]
    assert (found.version, found.n) == ("2.0", 4)
    assert found.variants["base"]["acc,none"].value in (0.0, 0.25, 0.5, 0.75, 1.0)
    with pytest.raises(ConfigError, match="there is no task 'greatr'; did you mean 'greater'"):
        check_harness(cfg.evaluate.harness.model_copy(update={"tasks": ("greatr",)}), offline=True)
