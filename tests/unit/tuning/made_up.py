"""Sweeps made up for tests: a loss that depends on the learning rate, a conditional and a structured parameter."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from luthier.sweep_schema import Aim, Finalist, MetricPoint, Spent, SweepResult, TrialResult
from luthier.tuning.analysis import mean_interval, pareto, rung_agreement

LESS_LOSS = Aim(metric="eval_loss", mode="min")
MORE_F1 = Aim(metric="macro_f1", mode="max")
_MIXES = ([{"train": "news.jsonl", "weight": 2.0}, {"train": "mail.jsonl"}], [{"train": "news.jsonl"}])


def made_up_sweep(num_trials: int, *, seed: int = 0, finalists: int = 0, unsound: bool = True) -> SweepResult:
    """A sweep with ``num_trials`` trials, of which some are stopped and, if ``unsound``, some fail or diverge."""
    generator = random.Random(seed)
    trials = tuple(_trial(number, generator, unsound=unsound) for number in range(1, num_trials + 1))
    sound = sorted((t for t in trials if t.status != "failed"), key=lambda t: t.metric or 0.0)
    repeated = []
    for trial in sound[:finalists]:
        values = (trial.metric or 0.0, *((trial.metric or 0.0) * generator.uniform(0.97, 1.1) for _ in range(2)))
        mean, low, high = mean_interval(values)
        repeated.append(Finalist(trial_id=trial.trial_id, values=values, mean=mean, low=low, high=high))
    repeated.sort(key=lambda finalist: finalist.mean)
    best = repeated[0].trial_id if repeated else sound[0].trial_id
    hours = {
        status: sum(t.held["GPU"] for t in trials if t.status == status) / 3600
        for status in ("finished", "stopped", "failed")
    }
    return SweepResult(
        metric="eval_loss",
        mode="min",
        trials=trials,
        best_trial_id=best,
        winning_overrides=next(t.params for t in trials if t.trial_id == best),
        wall_s=sum(t.wall_s for t in trials) / 4,
        max_concurrent_trials=4,
        more_metrics=(MORE_F1,),
        pareto=pareto(trials, (LESS_LOSS, MORE_F1)),
        rung_agreement=rung_agreement(trials, "min"),
        finalists=tuple(repeated),
        spent=Spent(
            trials=num_trials,
            wall_s=1.0,
            cpu_hours=4 * sum(hours.values()),
            gpu_hours=sum(hours.values()),
            by_status=hours | ({"seeds": 0.1} if repeated else {}),
            ended_by="max_gpu_hours" if num_trials > 100 else None,
        ),
    )


def _trial(number: int, generator: random.Random, *, unsound: bool) -> TrialResult:
    rate = 10 ** generator.uniform(-5, -2)
    params: dict[str, Any] = {
        "train.learning_rate": rate,
        "train.method": generator.choice(["lora", "dora", "full"]),
        "datasets": generator.choice(_MIXES),
        "train.gradient_accumulation_steps": generator.randint(1, 8),
    }
    if params["train.method"] != "full":
        params["train.lora_r"] = generator.choice([4, 8, 16, 32, 64])
    floor = 0.4 + 0.25 * abs(math.log10(rate) + 3.5) + 0.05 * generator.random()
    status: Literal["finished", "stopped", "failed"] = "finished"
    count = 6
    if floor > 0.7:
        status, count = "stopped", generator.choice([1, 2, 3])
    reason = "below the best 1/2 at validation" if status == "stopped" else None
    values = [floor + 2.0 * math.exp(-0.9 * step) + 0.03 * generator.random() for step in range(1, count + 1)]
    if unsound and number % 9 == 5:
        status, reason, values = "failed", "TrainingDiverged: step 3: the loss is nan; lower train.learning_rate.", []
    if unsound and number % 40 == 7:
        values = [9.0 * value for value in values]  # far from all others
    history = tuple(
        MetricPoint(
            step=20 * n, epoch=0.1 * n, value=v, validation=n, elapsed_s=30.0 * n, metrics=_metrics(v, generator)
        )
        for n, v in enumerate(values, start=1)
    )
    best = min(history, key=lambda point: point.value, default=None)
    return TrialResult(
        trial_id=f"trial-{number:03d}",
        params=params,
        metric=best.value if best else None,
        status=status,
        reason=reason,
        wall_s=20.0 + 30.0 * len(values),
        history=history,
        metrics=best.metrics if best else {},
        held={"CPU": 4 * (20.0 + 30.0 * len(values)), "GPU": 20.0 + 30.0 * len(values)},
        attempts=2 if number % 9 == 5 else 1,
    )


def _metrics(loss: float, generator: random.Random) -> Mapping[str, float]:
    return {"eval_loss": loss, "macro_f1": min(max(1.1 - loss * generator.uniform(0.75, 1.0), 0.02), 0.99)}


def small_sweep(trials: Sequence[TrialResult], **fields: Any) -> SweepResult:
    """A sweep by ``eval_loss`` of these trials; the first one won unless ``best_trial_id`` says otherwise."""
    settings: dict[str, Any] = {
        "metric": "eval_loss",
        "mode": "min",
        "trials": tuple(trials),
        "best_trial_id": trials[0].trial_id,
        "winning_overrides": trials[0].params,
        "wall_s": 1.0,
        "max_concurrent_trials": 1,
    }
    return SweepResult.model_validate(settings | fields)
