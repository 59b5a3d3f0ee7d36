"""The HTML report and the pictures: complete, safe to open, and the same every time."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from luthier.config.judge import GateConfig
from luthier.errors import DataError
from luthier.evaluation_parts import FewShotSearch
from luthier.evaluation_schema import Evaluation, TaskScores
from luthier.gate import decide
from luthier.manifest import BaseModelRef, DataFingerprint, Manifest
from luthier.safe_files import FileDigest
from luthier.trainers.evaluation import Prediction, render_report, score, write_confusion_png
from luthier.trainers.evaluation.examples import changed_rows
from luthier.trainers.evaluation.measured import ExtraMetric
from luthier.trainers.evaluation.run_plots import ranked, smoothed, spread

Answers = Callable[..., list[Prediction]]
EVIL = "<script>alert(1)</script>"
SETTINGS: dict[str, Any] = {"confidence": 0.95, "bootstrap_samples": 100, "seed": 0, "few_shot_k": 0}
LABELS = ("net", EVIL, "a$b$ & \"c'")


class Page(HTMLParser):
    """What a browser would make of the page: its tags, what they point to, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.opened: list[str] = []
        self.links: list[str] = []
        self.handlers: list[str] = []
        self.words = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.words += data


def digest(letter: str) -> str:
    return letter * 64


def manifest() -> Manifest:
    return Manifest(
        name="demo",
        method="lora",
        base_model=BaseModelRef(model_name_or_path=EVIL, digest=digest("a")),
        files={"adapter/adapter_model.safetensors": FileDigest(sha256=digest("b"), size_bytes=12345)},
        chat_template_sha256=None,
        config_hash=digest("c"),
        data={"test": (DataFingerprint(path=EVIL, rows=120, sha256=digest("d")),)},
        metrics={},
        lineage_id="e" * 32,
        created_at="2026-01-02T03:04:05+00:00",
        luthier_version="0.1.0",
    )


def everything(evaluation: Evaluation) -> dict[str, Any]:
    """Every part of a report, with hostile text wherever text can come from outside."""
    trials = [
        {"trial_id": "trial-001", "params": {EVIL: 1e-4}, "metric": 2.0, "status": "stopped", "history": []},
        {
            "trial_id": "trial-002",
            "params": {EVIL: EVIL},
            "metric": 1.0,
            "status": "finished",
            "history": [{"step": 8, "value": 1.5}, {"step": 16, "value": 1.0}],
        },
        {"trial_id": "trial-003", "params": {}, "metric": None, "status": "failed", "reason": EVIL, "history": []},
    ]
    history = [
        {"step": s, "epoch": s / 10, "loss": 3.0 / s, "learning_rate": 1e-4, "tokens_per_s": 900.0}
        for s in range(1, 41)
    ]
    history[19]["eval_loss"] = 0.5
    return {
        "title": EVIL,
        "evaluation": evaluation,
        "history": history,
        "sweep": {"metric": "eval_loss", "mode": "min", "trials": trials},
        "timings": {"train": 65.0, EVIL: 0.5},
        "manifest": manifest(),
        "gate": decide(evaluation, GateConfig()),
        "config_yaml": f"name: {EVIL}\n",
        "examples": [{"row_id": EVIL, "text": EVIL, "label": "net", "base": EVIL, "few_shot": "", "tuned": "net"}],
        "parity": {
            **{"same": 17, "near-tie": 1, "mismatch": 1, "other-prompt": 1, "tolerance": 0.125, "deviation": 6e-5},
            "rows": [
                {"row_id": "same", "outcome": "same", "position": None, "trainer_gap": None, "served_gap": None},
                {"row_id": EVIL, "outcome": "near-tie", "position": 2, "trainer_gap": 0.0625, "served_gap": 0.031},
                {"row_id": "r9", "outcome": "other-prompt", "position": 5, "trainer_gap": None, "served_gap": None},
            ],
        },
        "endpoint": {"base_url": "http://127.0.0.1:8000/v1", "models": [EVIL], "answer": EVIL, "question": EVIL},
    }


@pytest.fixture
def evaluation(answers: Answers) -> Evaluation:
    given = {
        name: answers(accuracy, labels=LABELS, seed=seed)
        for seed, (name, accuracy) in enumerate({"base": 0.2, "few_shot": 0.4, "tuned": 0.9}.items())
    }
    return score(given, LABELS, confidence=0.95, bootstrap_samples=200, seed=0, few_shot_k=5)


@pytest.fixture
def page(evaluation: Evaluation) -> str:
    return render_report(**everything(evaluation))


def test_a_classifiers_parity_is_told_in_probabilities(evaluation: Evaluation) -> None:
    counts = {"of": "scores", "same": 18, "near-tie": 1, "mismatch": 1, "tolerance": 0.001, "deviation": 6e-5}
    rows = [{"row_id": "r9", "outcome": "mismatch", "deviation": 0.2, "trainer_label": EVIL, "served_label": "net"}]
    page = render_report(**{**everything(evaluation), "parity": {**counts, "rows": rows}})
    assert "18 of 20 texts have the trainer" in page
    assert "1 differ by more than 0.001" in page
    assert "nats" not in page.partition("<h2>Endpoint</h2>")[2].partition("</section>")[0]


def test_nothing_from_outside_becomes_markup(page: str) -> None:
    read = Page(page)
    assert "script" not in read.tags
    assert read.handlers == []
    assert "<script" not in page
    # every place that hostile text was put into shows it as text; the matrices' axes show its beginning
    assert read.words.count(EVIL) == 18
    assert page.count("&lt;script&gt;alert(1)&lt;…") == 4


def test_nothing_is_loaded(page: str) -> None:
    read = Page(page)
    assert read.links, "the plots refer to their own markers"
    assert all(link.startswith("#") for link in read.links)
    assert not re.search(r"url\(\s*['\"]?(?!#)|@import", page)
    assert not {"link", "img", "iframe", "object", "embed", "base", "form"} & read.tags
    assert "default-src 'none'" in page
    # the endpoint's own address is text; nothing else names a host
    assert re.findall(r"https?://[^\s<\"]*", page) == ["http://127.0.0.1:8000/v1"]


def test_every_part_is_there(page: str, evaluation: Evaluation) -> None:
    words = Page(page).words
    for heading in (
        "Gate",
        "Comparison",
        "Classes",
        "Training",
        "Sweep",
        "Rows that changed",
        "Endpoint",
        "Time",
        "Lineage",
    ):
        assert heading in words
    assert "gate passed" in words
    assert page.count("<svg") == 5
    assert f"{evaluation.variants['tuned'].metrics['macro_f1'].value:.3f}" in words
    assert f"{evaluation.differences['tuned-base']['macro_f1'].low:+.3f}" in words
    assert "17 of 20" in words
    assert "1 were asked by another prompt" in words
    assert "the trainer's two best are 0.062 nats apart, the endpoint's 0.031" in words
    assert "up to there both rate the tokens alike within 6e-05 nats" in words
    assert "1 min" not in words
    assert "65.0 s" in words


def test_a_refusal_is_said(evaluation: Evaluation) -> None:
    parts = {**everything(evaluation), "gate": decide(evaluation, GateConfig(min_value=0.999))}
    words = Page(render_report(**parts)).words
    assert "gate refused" in words
    assert "gate.min_value is 0.999" in words
    assert "gate passed" not in words


def test_the_plots_follow_the_theme_and_keep_their_text(page: str) -> None:
    plots = "".join(re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL))
    assert "var(--tuned)" in plots
    assert set(re.findall(r"#[0-9a-f]{6}\b", plots)) <= {"#000000"}
    assert ">a$b$ &amp; \"c'</text>" in plots, "a label is no formula"
    assert "<!--" not in plots
    defined = set(re.findall(r"(--[a-z-]+):", page))
    assert set(re.findall(r"var\((--[a-z-]+)\)", page)) <= defined


def test_equal_input_gives_an_equal_page(evaluation: Evaluation) -> None:
    first, second = (render_report(**everything(evaluation)) for _ in range(2))
    assert first == second


def test_parts_that_are_missing_are_left_out() -> None:
    rows = [Prediction(f"r{number}", "some words here", "some words") for number in range(3)]
    given = score({"tuned": rows}, None, confidence=0.95, bootstrap_samples=100, seed=0, few_shot_k=0)
    text = render_report(title="bare", evaluation=given)
    words = Page(text).words
    assert "ROUGE-L, tuned" in words
    assert "not gated" in words
    assert "Only 3 test rows" in words
    assert text.count("<svg") == 1
    for heading in ("Classes", "Training", "Sweep", "Rows that changed", "Endpoint", "Lineage"):
        assert heading not in words


def test_a_calibration_is_drawn_and_told(answers: Answers) -> None:
    given = {"majority": answers(0.3), "tuned": [replace(one, probability=0.75) for one in answers(0.8)]}
    found = score(given, ("net", "mail", "math"), **SETTINGS)
    text = render_report(title="sure", evaluation=found)
    words = Page(text).words
    assert 'aria-label="Share of right answers by' in text
    for told in ("Calibration", "exactly the tokens that were generated", "ECE", "Brier score of the answer"):
        assert told in words
    without = score({"tuned": answers(0.8)}, ("net", "mail", "math"), **SETTINGS)
    assert "No calibration is told" in Page(render_report(title="unsure", evaluation=without)).words


def test_a_users_figure_has_no_interval(answers: Answers) -> None:
    extra = [ExtraMetric("mean_length", lambda rows: sum(len(row.answer) for row in rows) / len(rows))]
    found = score({"tuned": answers(1.0)}, ("net", "mail", "math"), **SETTINGS, extra=extra)
    assert "mean length no interval" in Page(render_report(title="own", evaluation=found)).words


def test_too_many_classes_get_no_matrix(answers: Answers, tmp_path: Path) -> None:
    labels = tuple(f"class {number}" for number in range(60))
    given = score(
        {"tuned": answers(0.5, labels=labels)}, labels, confidence=0.9, bootstrap_samples=50, seed=0, few_shot_k=0
    )
    assert "60 classes are too many" in Page(render_report(title="many", evaluation=given)).words
    write_confusion_png(tmp_path / "many.png", given, "tuned")
    assert (tmp_path / "many.png").stat().st_size > 10_000


def test_the_confusion_picture(evaluation: Evaluation, tmp_path: Path) -> None:
    for variant in ("tuned", "base"):
        write_confusion_png(tmp_path / f"{variant}.png", evaluation, variant)
    tuned, base = (tmp_path / "tuned.png").read_bytes(), (tmp_path / "base.png").read_bytes()
    assert tuned.startswith(b"\x89PNG\r\n")
    assert tuned != base
    with pytest.raises(DataError, match="'incumbent'; it has base, few_shot, tuned"):
        write_confusion_png(tmp_path / "x.png", evaluation, "incumbent")
    assert not (tmp_path / "x.png").exists()


def test_changed_rows_are_sorted_by_what_became_of_them() -> None:
    def row(name: str, base: str, tuned: str) -> dict[str, str]:
        return {"row_id": name, "text": "t" * 500, "label": "Net", "base": base, "tuned": tuned}

    groups = changed_rows(
        [row("same", "net", "Net."), row("fixed", "mail", "net"), row("broken", "net", "x"), row("other", "a", "b")],
        labelled=True,
    )
    assert [(group["count"], group["rows"][0]["row_id"]) for group in groups] == [
        (1, "fixed"),
        (1, "broken"),
        (1, "other"),
    ]
    assert len(groups[0]["rows"][0]["text"]) == 280
    assert {name: answer["right"] for name, answer in groups[0]["rows"][0]["answers"].items()} == {
        "base": False,
        "tuned": True,
    }
    rows = [{**row(f"r{n}", "x", "wrong"), "incumbent": "net"} for n in range(210)]
    (lost,) = changed_rows(rows, labelled=True, rival="incumbent")
    assert (lost["kind"], lost["count"], len(lost["rows"]), lost["row_ids"][7]) == ("broken", 210, 6, "r7")
    assert len(lost["row_ids"]) == 200
    exact = changed_rows([row("r", "net", "Net")], labelled=False)
    assert exact[0]["title"] == "Put right by tuning"


def test_what_the_incumbent_had_right_is_told(evaluation: Evaluation) -> None:
    rows = [
        {"row_id": f"r{n}", "text": "t", "label": "net", "base": "x", "tuned": "x", "incumbent": "net"}
        for n in range(9)
    ]
    words = Page(render_report(title="lost", evaluation=evaluation, examples=rows)).words
    assert "answers differently from the incumbent" in words
    assert "answers differently from the base model" not in words
    assert "Right before, wrong now: 9 (first 6)" in words
    assert "r7, r8" in words


def test_the_choice_of_examples_is_told(evaluation: Evaluation) -> None:
    search = FewShotSearch(metric="macro_f1", n=80, tried={0: 0.1, 5: 0.4})
    told = Page(render_report(title="k", evaluation=evaluation.model_copy(update={"few_shot_search": search}))).words
    assert "has 5 examples, the best of those that were tried on 80 validation" in told
    assert "0 gave 0.100, 5 gave 0.400" in told


@pytest.mark.parametrize(("mode", "order"), [("min", "bac"), ("max", "abc")])
def test_trials_are_ranked_by_mode_with_failures_last(mode: str, order: str) -> None:
    trials = [
        {"trial_id": "c", "metric": 0.5, "status": "failed"},
        {"trial_id": "a", "metric": 2.0, "status": "stopped"},
        {"trial_id": "b", "metric": 1.0, "status": "finished"},
    ]
    assert "".join(trial["trial_id"] for trial in ranked({"trials": trials, "mode": mode})) == order


def test_the_moving_average_starts_at_the_first_value() -> None:
    assert smoothed([4.0, 4.0, 4.0]) == pytest.approx([4.0, 4.0, 4.0])
    assert smoothed([0.0, 1.0], weight=0.5) == pytest.approx([0.0, 2 / 3])


def test_line_names_keep_their_distance() -> None:
    placed = spread([(1.0, 1.0, "a", ""), (1.0, 1.01, "b", ""), (1.0, 5.0, "c", "")], gap=0.5)
    assert [(name, y) for _, y, name, _ in placed] == [("a", 1.0), ("b", 1.5), ("c", 5.0)]


def test_tasks_and_stages_are_told_where_there_are_several(evaluation: Evaluation) -> None:
    metrics = {name: scores.metrics for name, scores in evaluation.variants.items()}
    tasks = {EVIL: TaskScores(n=70, variants=metrics), "names": TaskScores(n=50, variants=metrics)}
    stages = [
        {"name": "first", "losses": {EVIL: 2.5}, "forgotten": {}},
        {"name": "second", "losses": {EVIL: 3.0, "names": 0.25}, "forgotten": {EVIL: 0.2}},
    ]
    facts = everything(evaluation.model_copy(update={"tasks": tasks})) | {"stages": stages}
    page = Page(render_report(**facts))
    assert "script" not in page.tags
    for told in ("Tasks", "70 rows", "50 rows", "Stages", "1. first", "2. second", "3.0000+20.0%", "0.2500"):
        assert told in page.words
    assert page.words.count(EVIL) == 18 + 2  # once as a task, once as a stage's column
