"""What a sweep's trials tell, against slow and obvious ways to find the same."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import Any, Literal

import pytest

from luthier.sweep_schema import Finalist, MetricPoint, TrialResult
from luthier.tuning.analysis import importances, mean_interval, pareto, rung_agreement, standings
from tests.unit.tuning.made_up import LESS_LOSS, MORE_F1, small_sweep


def trial(number: int, metric: float | None = 1.0, **fields: Any) -> TrialResult:
    return TrialResult.model_validate(
        {
            "trial_id": f"trial-{number:03d}",
            "params": {},
            "metric": metric,
            "status": "finished",
            "wall_s": 1.0,
            **fields,
        }
    )


def with_history(number: int, values: Sequence[float], *, numbered: bool = True, **fields: Any) -> TrialResult:
    points = [
        MetricPoint(step=10 * place, epoch=0.1 * place, value=value, validation=place if numbered else 0)
        for place, value in enumerate(values, start=1)
    ]
    return trial(number, min(values), history=tuple(points), **fields)


def test_the_front_is_what_brute_force_finds() -> None:
    generator = random.Random(0)
    for _ in range(60):
        trials = [
            trial(
                number,
                metrics={"eval_loss": generator.randint(0, 5), "macro_f1": generator.randint(0, 5)},
                status=generator.choice(["finished", "stopped", "failed"]),
            )
            for number in range(generator.randint(1, 12))
        ]
        alive = [t for t in trials if t.status != "failed"]
        beaten = {
            one.trial_id
            for one, other in itertools.permutations(alive, 2)
            if other.metrics["eval_loss"] <= one.metrics["eval_loss"]
            and other.metrics["macro_f1"] >= one.metrics["macro_f1"]
            and other.metrics != one.metrics
        }
        assert pareto(trials, [LESS_LOSS, MORE_F1]) == tuple(t.trial_id for t in alive if t.trial_id not in beaten)


def test_a_trial_that_lacks_a_metric_is_not_on_the_front() -> None:
    trials = [trial(1, metrics={"eval_loss": 0.1}), trial(2, metrics={"eval_loss": 0.9, "macro_f1": 0.2})]
    assert pareto(trials, [LESS_LOSS, MORE_F1]) == ("trial-002",)
    assert pareto([], [LESS_LOSS]) == ()


@pytest.mark.parametrize("numbered", [True, False])
def test_agreement_of_known_orders(numbered: bool) -> None:
    ends = (0.1, 0.2, 0.3, 0.4)
    firsts = (0.9, 0.8, 0.7, 0.6)  # the reverse
    seconds = (0.5, 0.6, 0.8, 0.7)  # one neighbour pair swapped: 1 - 6 * 2 / (4 * 15)
    trials = [
        with_history(number, values, numbered=numbered)
        for number, values in enumerate(zip(firsts, seconds, ends, strict=True))
    ]
    trials += [with_history(8, (0.1, 9.0, 5.0), status="stopped"), with_history(9, (0.3, 0.2))]  # not compared
    first, second = rung_agreement(trials, "min")
    assert (first.validation, first.num_trials) == (1, 4)
    assert (second.validation, second.num_trials) == (2, 4)
    assert (first.spearman, second.spearman) == pytest.approx((-1.0, 0.8))


def test_agreement_that_can_not_be_told_is_none() -> None:
    two = [with_history(1, (0.5, 0.4)), with_history(2, (0.6, 0.3))]
    assert [found.spearman for found in rung_agreement(two, "min")] == [None]
    constant = [with_history(number, (0.5, 0.1 * number)) for number in range(1, 5)]
    assert [found.spearman for found in rung_agreement(constant, "min")] == [None]
    assert rung_agreement([trial(1)], "min") == ()
    assert rung_agreement([with_history(1, (0.5,))], "min") == ()


@pytest.mark.parametrize(("mode", "expected"), [("min", 1.0), ("max", -0.5)])
def test_a_value_that_was_not_finite_counts_as_the_worst(mode: Literal["min", "max"], expected: float) -> None:
    gap = with_history(3, (0.0, 0.9)).model_copy(
        update={"history": (MetricPoint(step=20, epoch=0.2, value=0.9, validation=2),)}
    )
    trials = [with_history(1, (0.5, 0.1)), with_history(2, (0.6, 0.2)), gap]
    assert rung_agreement(trials, mode)[0].spearman == pytest.approx(expected)


def test_the_interval_is_students() -> None:
    # t(0.975, 2 degrees) = 4.30265; the standard error of 1, 2, 3 is 1 / sqrt(3).
    assert mean_interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, 2.0 - 2.48414, 2.0 + 2.48414), abs=1e-4)
    assert mean_interval([0.7]) == (0.7, 0.7, 0.7)
    assert mean_interval([0.7, 0.7]) == pytest.approx((0.7, 0.7, 0.7))
    with pytest.raises(ValueError, match="at least one"):
        mean_interval([])


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("seed", range(3))
def test_the_parameter_that_decides_is_the_most_important(mode: Literal["min", "max"], seed: int) -> None:
    generator = random.Random(seed)
    trials = []
    for number in range(24):
        rate = 10 ** generator.uniform(-5, -2)
        params = {"train.learning_rate": rate, "seed": generator.randint(0, 99), "data.packing": number % 2 == 0}
        if number % 3 == 0:
            params["train.lora_dropout"] = generator.random()  # only some trials have it
        trials.append(trial(number, rate if mode == "min" else -rate, params=params))
    found = importances(small_sweep(trials, mode=mode))
    assert next(iter(found)) == "train.learning_rate"
    assert set(found) == {"train.learning_rate", "seed", "data.packing", "train.lora_dropout"}
    assert sum(found.values()) == pytest.approx(1.0)


def test_structured_and_categorical_values_can_decide() -> None:
    generator = random.Random(1)
    good, bad = [{"path": "a", "weight": 1.0}], [{"weight": 2.0, "path": "a"}, {"path": "b"}]
    trials = [
        trial(
            number,
            (0.1 if number % 2 else 0.9) + 0.01 * generator.random(),
            params={"datasets": good if number % 2 else bad, "train.lora_alpha": generator.choice([None, 8, "auto"])},
        )
        for number in range(16)
    ]
    assert next(iter(importances(small_sweep(trials)))) == "datasets"


def test_stopped_trials_count_as_worse_than_finished_ones() -> None:
    """Early values that look good, as where the loss rises later, don't make a parameter important."""
    trials = [
        with_history(number, (0.01,) if number % 2 else (0.5, 0.4), params={"train.lora_r": 8 + 8 * (number % 2)})
        for number in range(12)
    ]
    trials = [t.model_copy(update={"status": "stopped" if len(t.history) == 1 else "finished"}) for t in trials]
    noise = [t.model_copy(update={"params": {**t.params, "seed": int(t.trial_id[-3:]) % 3}}) for t in trials]
    assert next(iter(importances(small_sweep(noise)))) == "train.lora_r"


def test_too_few_sound_trials_or_nothing_that_varies_give_no_importances() -> None:
    varied = [trial(number, float(number), params={"seed": number}) for number in range(4)]
    failed = varied[3].model_copy(update={"status": "failed"})
    assert importances(small_sweep(varied)) == {"seed": 1.0}
    assert importances(small_sweep([*varied[:3], failed])) == {}
    assert importances(small_sweep([trial(number, float(number), params={"seed": 7}) for number in range(6)])) == {}
    assert importances(small_sweep([trial(number, float(number)) for number in range(6)])) == {}


def test_the_winner_leads_the_standings_also_where_seeds_decided() -> None:
    trials = [trial(1, 0.1), trial(2, 0.2), trial(3, 0.3), trial(4, None, status="failed"), trial(5, 0.05)]
    finalists = tuple(
        Finalist(trial_id=f"trial-00{number}", values=(0.3,), mean=mean, low=mean, high=mean)
        for number, mean in ((3, 0.3), (5, 0.4))
    )
    result = small_sweep(trials, best_trial_id="trial-003", finalists=finalists)
    assert [t.trial_id[-1] for t in standings(result)] == ["3", "5", "1", "2", "4"]
