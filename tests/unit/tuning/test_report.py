"""The sweep's HTML report and its pictures."""

from __future__ import annotations

import re
from typing import Any

import pytest
from matplotlib.figure import Figure

from luthier.sweep_schema import MetricPoint, TrialResult
from luthier.trainers.evaluation.drawing import focus, style
from luthier.tuning.figures import agreement_figure, cost_figure, seeds_figure
from luthier.tuning.parallel import MAX_AXES, metric_axis, parallel_figure, shown_params
from luthier.tuning.report import sweep_page
from tests.unit.tuning.made_up import made_up_sweep, small_sweep

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)> $x_{ & \"'"


def trial(number: int, metric: float | None, **fields: Any) -> TrialResult:
    history = () if metric is None else (MetricPoint(step=1, epoch=0.5, value=metric, validation=1),)
    settings = {"params": {"seed": number}, "status": "finished", "wall_s": 1.0, "history": history}
    return TrialResult.model_validate(
        {"trial_id": f"trial-{number:03d}", "metric": metric, "metrics": {}} | settings | fields
    )


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


@pytest.fixture(scope="module", params=[(2, 0), (12, 3), (200, 5)], ids=["2", "12", "200"])
def page(request: pytest.FixtureRequest) -> tuple[str, int]:
    num_trials, finalists = request.param
    return sweep_page("demo", made_up_sweep(num_trials, finalists=finalists)), num_trials


def test_the_page_names_every_trial_and_loads_nothing(page: tuple[str, int]) -> None:
    html, num_trials = page
    for number in range(1, num_trials + 1):
        assert f"trial-{number:03d}" in html
    assert "<script" not in html
    assert not re.search(r"https?://", html)
    assert not re.search(r"(?:src|href)=\"(?!#)", html)
    assert "default-src 'none'" in html


def test_the_page_has_what_the_sweep_has_and_nothing_else() -> None:
    rich = sweep_page("demo", made_up_sweep(12, finalists=3))
    poor = sweep_page("demo", small_sweep([trial(1, 0.5), trial(2, 0.7)]))
    for heading in ("Importance", "How sure this is", "Where the compute went", "Failed trials"):
        assert f"<h2>{heading}</h2>" in rich
        assert f"<h2>{heading}</h2>" not in poor
    for heading in ("Winner", "Trials", "Settings and where they led", "Over the steps", "Cost and quality"):
        assert f"<h2>{heading}</h2>" in rich
        assert f"<h2>{heading}</h2>" in poor
    assert "TrainingDiverged: step 3" in rich


def test_hostile_text_stays_text() -> None:
    trials = [
        trial(number, 0.1 * number, params={"train.output": HOSTILE, "datasets": [{"path": HOSTILE}], HOSTILE: number})
        for number in range(1, 6)
    ]
    failed = trial(6, None, status="failed", reason=HOSTILE)
    html = sweep_page(HOSTILE, small_sweep([*trials, failed], metric=HOSTILE))
    assert "<script" not in html
    assert "<img" not in html
    assert "&lt;script&gt;" in html


def test_a_sweep_without_histories_or_parameters_has_a_page() -> None:
    bare = trial(1, 0.5, params={}, history=())
    html = sweep_page("demo", small_sweep([bare, trial(2, None, params={}, status="failed", reason="died")]))
    assert "trial-001" in html
    assert "died" in html
    assert "Settings and where they led" not in html


def test_every_parameter_has_an_axis_until_there_are_too_many() -> None:
    few = small_sweep([trial(1, 0.1, params={f"train.p{n}": n for n in range(MAX_AXES)})])
    many = small_sweep([trial(1, 0.1, params={f"train.p{n}": n for n in range(MAX_AXES + 3)})])
    assert len(shown_params(few, {})) == MAX_AXES
    shown = shown_params(many, {"train.p11": 0.9, "train.p10": 0.1})
    assert len(shown) == MAX_AXES
    assert shown[-2:] == ["train.p10", "train.p11"]  # in their own order, not by importance
    assert "not drawn: p9, p10, p11" in sweep_page("demo", many)


def test_a_conditional_parameter_is_shown_as_not_set_and_a_failed_trial_as_failed() -> None:
    trials = [
        trial(1, 0.1, params={"train.learning_rate": 1e-5, "train.lora_r": 8}),
        trial(2, 0.2, params={"train.learning_rate": 1e-2}),
        trial(3, None, params={"train.learning_rate": 1e-3, "train.lora_r": 16}, status="failed"),
    ]
    with style():
        figure = parallel_figure(small_sweep(trials), {})
    assert figure is not None
    assert {"learning_rate (log)", "lora_r", "not set", "failed", "8", "16"} <= set(texts(figure))


@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_best_is_at_the_top_of_the_metrics_axis_and_outliers_at_its_foot(mode: str) -> None:
    values = [1.0, 1.1, 1.2, 1.3, 1.4, 90.0 if mode == "min" else -90.0]
    places = metric_axis(small_sweep([trial(n, value) for n, value in enumerate(values)], mode=mode)).places
    best, worst = (0, 4) if mode == "min" else (4, 0)
    assert places[f"trial-00{best}"] == 1.0
    assert places[f"trial-00{worst}"] == places["trial-005"] == 0.0
    assert 0.4 < places["trial-002"] < 0.6


def test_equal_values_and_a_single_trial_can_be_drawn() -> None:
    for trials in (
        [trial(1, 0.0)],
        [trial(n, 0.5) for n in range(5)],
        [trial(1, 0.5), trial(2, None, status="failed")],
    ):
        result = small_sweep(trials)
        with style():
            assert parallel_figure(result, {}) is not None
            assert cost_figure(result) is not None
            assert seeds_figure(result) is None
            assert agreement_figure(result) is None


def test_a_metric_beside_the_deciding_one_has_a_panel() -> None:
    with style():
        figure = cost_figure(made_up_sweep(12))
    assert figure is not None
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Cost and eval loss", "macro F1 and eval loss"]


def test_only_values_far_out_at_the_worse_end_are_cut() -> None:
    values = [1.0, 1.1, 1.2, 1.3, 1.4]
    assert focus([*values, 90.0], "min") == (1.0, 1.4)
    assert focus([*values, -90.0], "max") == (1.0, 1.4)
    assert focus([*values, -90.0], "min") == (-90.0, 1.4)  # far better is news
    assert focus([0.5], "min") == (0.5, 0.5)


def test_the_winners_values_are_exact() -> None:
    rate = 0.000123456789
    html = sweep_page("demo", small_sweep([trial(1, 0.5, params={"train.learning_rate": rate})]))
    assert "0.000123456789" in html
