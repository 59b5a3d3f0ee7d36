"""Metrics of the user's own: what they get, what they may give, and how a fault reads."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from luthier.errors import ConfigError
from luthier.trainers.evaluation import Prediction, score
from luthier.trainers.evaluation.user_metrics import user_metrics

MODULE = """
import numpy as np

def shorter(references, answers, rows):
    return [float(len(a) <= len(r)) for r, a in zip(references, answers)]

def mean_id(references, answers, rows):
    return np.float32(sum(int(row["row_id"][1:]) for row in rows) / len(rows))

def fails(references, answers, rows):
    raise KeyError("secret text of a row")

def of_one(references, answers, rows):
    return [1.0]

def not_finite(references, answers, rows):
    return [float("nan")] * len(rows)

def words(references, answers, rows):
    return "good"

def accuracy(references, answers, rows):
    return 1.0

number = 3
"""
ROWS = [Prediction(f"r{n}", "some words", "some", row={"row_id": f"r{n}"}) for n in range(3)]


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "my_own_metrics.py").write_text(MODULE, encoding="utf-8")
    (tmp_path / "broken_metrics.py").write_text("import nothing_of_that_name\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in ("my_own_metrics", "broken_metrics"):
        sys.modules.pop(name, None)


def test_a_list_gets_an_interval_and_a_number_none() -> None:
    extra = user_metrics(["my_own_metrics:shorter", "my_own_metrics:mean_id"])
    found = score(
        {"tuned": ROWS, "base": ROWS}, None, confidence=0.9, bootstrap_samples=100, seed=0, few_shot_k=0, extra=extra
    )
    tuned = found.variants["tuned"]
    assert (tuned.metrics["shorter"].value, tuned.metrics["shorter"].low) == (1.0, 1.0)
    assert tuned.figures == {"mean_id": 1.0}
    assert found.differences["tuned-base"]["shorter"].value == 0.0


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_such_module:f", r"no_such_module can't be imported \(ModuleNotFoundError"),
        ("broken_metrics:f", r"broken_metrics can't be imported \(ModuleNotFoundError"),
        ("my_own_metrics:absent", "has no 'absent'"),
        ("my_own_metrics:number", "is int; it must be a function"),
        ("my_own_metrics:accuracy", "there is a metric 'accuracy' already"),
    ],
)
def test_what_can_not_be_loaded_is_refused(path: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"evaluate\.metrics: {path}.*{message}|evaluate\.metrics: {path} {message}"):
        user_metrics([path])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fails", r"failed \(KeyError at my_own_metrics\.py:11\)"),
        ("of_one", r"shape \(1,\) for 3 rows"),
        ("not_finite", "finite: False"),
        ("words", "gave str; it must give a number"),
    ],
)
def test_a_fault_is_one_error_that_names_the_path(name: str, message: str) -> None:
    (metric,) = user_metrics([f"my_own_metrics:{name}"])
    with pytest.raises(ConfigError, match=message) as caught:
        metric.measure(ROWS)
    assert f"my_own_metrics:{name}" in str(caught.value)
    assert "secret" not in str(caught.value)
