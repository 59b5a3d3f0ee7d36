"""Answers to figures: slices by a column, the user's metrics, calibration of generated labels."""

from __future__ import annotations

from pathlib import Path

import pytest

from luthier.config import load_config
from luthier.errors import ConfigError, DataError
from luthier.evaluation_schema import Evaluation
from luthier.preflight import check_judgeable
from luthier.scoring import MAX_SLICES, score_all
from luthier.trainers.evaluation import render_report
from luthier.trainers.files import evaluation_rows
from tests.unit.judged import answered, labelled_config

TEST = [
    {"text": f"row {n}", "label": ("mail", "net")[n % 2], "language": "de" if n < 40 else "fr", "urgent": n < 60}
    for n in range(60)
]
TEST[-1] = {"text": "row 59", "label": "net"}  # neither language nor urgency


def evaluated(tmp_path: Path, *slices: str) -> Evaluation:
    cfg = labelled_config(tmp_path, TEST, evaluate={"slices": slices, "bootstrap_samples": 100})
    rows = evaluation_rows(cfg)
    right = [str(row.label) for row in rows]
    wrong_in_french = ["mail" if row.fields.get("language") == "fr" else str(row.label) for row in rows]
    scored = {
        "base": answered(rows, ["mail"] * 60),
        "tuned": answered(rows, wrong_in_french),
        "few_shot": answered(rows, right),
    }
    return score_all(cfg, scored, rows, 5)


def test_slices_are_measured_by_themselves(tmp_path: Path) -> None:
    found = evaluated(tmp_path, "language", "urgent").slices
    german, french, neither = found["language"].slices
    assert [(one.value, one.n) for one in (german, french, neither)] == [("de", 40), ("fr", 19), ("(none)", 1)]
    assert german.variants["tuned"]["accuracy"].value == 1.0
    assert french.variants["tuned"]["accuracy"].value == pytest.approx(10 / 19)
    assert german.differences["tuned-base"]["accuracy"].low > 0.2
    assert french.differences["tuned-base"]["accuracy"].value == 0.0
    assert neither.variants == {}
    assert [one.value for one in found["urgent"].slices] == ["True", "(none)"]


def test_the_report_tells_slices_and_marks_small_ones(tmp_path: Path) -> None:
    found = evaluated(tmp_path, "language")
    page = render_report(title="sliced", evaluation=found)
    section = page.partition("<h2>Slices</h2>")[2].partition("</section>")[0]
    assert section.count(">few</small>") == 2
    assert "10 values" not in section
    assert Evaluation.model_validate_json(found.model_dump_json()) == found


def test_a_column_of_many_values_is_told_by_its_largest(tmp_path: Path) -> None:
    rows = [{"text": f"row {n}", "label": "net", "customer": min(n, 30)} for n in range(40)]
    cfg = labelled_config(tmp_path, rows, evaluate={"slices": ["customer"], "bootstrap_samples": 100})
    read = evaluation_rows(cfg)
    found = score_all(cfg, {"tuned": answered(read, ["net"] * 40)}, read, 0).slices["customer"]
    assert (len(found.slices), found.num_left_out) == (MAX_SLICES, 31 - MAX_SLICES)
    assert (found.slices[0].value, found.slices[0].n) == ("30", 10)


def test_generated_labels_are_calibrated_by_their_tokens(tmp_path: Path) -> None:
    tuned = evaluated(tmp_path).variants["tuned"]
    assert tuned.calibration is not None
    assert tuned.calibration.of == "answered tokens"
    (filled,) = (one for one in tuned.calibration.bins if one.n)
    assert filled.confidence == pytest.approx(0.8)
    assert tuned.metrics["ece"].value == pytest.approx(abs(tuned.metrics["accuracy"].value - 0.8))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"slices": ["tongue"]}, ConfigError, "evaluate.slices: no test row has the column 'tongue'"),
        ({"slices": ["tags"]}, DataError, r"test\.jsonl:1: column 'tags' holds list"),
        ({"slices": ["essay"]}, DataError, "at most 100 characters"),
        ({"metrics": ["no_such_module:f"]}, ConfigError, "no_such_module:f"),
        ({"prices": "no-such-prices.yaml"}, ConfigError, "evaluate.prices no-such-prices.yaml"),
    ],
)
def test_what_can_not_be_measured_is_refused_before_the_run(
    tmp_path: Path, changes: dict[str, object], error: type[Exception], message: str
) -> None:
    rows = [{"text": "x", "label": "net", "tags": ["a"], "essay": "x" * 101}] * 6
    with pytest.raises(error, match=message):
        check_judgeable(labelled_config(tmp_path, rows, evaluate=changes))


@pytest.mark.parametrize(
    ("metric", "message"),
    [("bleu", "measured of free text, and every test row has a label"), ("json_valid", "needs answers in free text")],
)
def test_a_gate_by_what_labels_have_not_is_refused(tmp_path: Path, metric: str, message: str) -> None:
    rows = [{"text": "x", "label": "net"}] * 6
    with pytest.raises(ConfigError, match=message):
        check_judgeable(labelled_config(tmp_path, rows, gate={"metric": metric}))
    schemaless = [{"prompt": "x", "completion": "words"}] * 6
    with pytest.raises(ConfigError, match=r"json_schema_valid needs evaluate\.json_schema;"):
        check_judgeable(labelled_config(tmp_path, schemaless, gate={"metric": "json_schema_valid"}))
    structured = [{"prompt": "x", "completion": "[1]"}] * 6
    check_judgeable(labelled_config(tmp_path, structured, gate={"metric": "json_valid"}))


def test_the_shipped_metric_measures_the_shipped_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).parents[2]
    monkeypatch.chdir(root)
    cfg = load_config("configs/evaluation.yaml", ["evaluate.bootstrap_samples=100"])
    check_judgeable(cfg)
    rows = evaluation_rows(cfg)
    scored = {"base": answered(rows, ["?"] * len(rows)), "tuned": answered(rows, [row.answer for row in rows])}
    found = score_all(cfg, scored, rows, 0)
    assert found.variants["tuned"].metrics["starts_alike"].value == 1.0
    assert found.differences["tuned-base"]["starts_alike"].value == 1.0
