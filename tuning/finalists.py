"""The best trials over several seeds, so that none wins by luck."""

from __future__ import annotations

from luthier.config.tune import TuneConfig
from luthier.sweep_schema import Finalist
from luthier.tuning.analysis import mean_interval
from luthier.tuning.record import SweepRecord, TrialRecord


def finalists_of(record: SweepRecord, tune: TuneConfig) -> list[TrialRecord]:
    """The best trials that did not fail, the best first; none where one seed is enough."""
    if tune.seeds == 1:
        return []
    sound = [trial for trial in record.drawn if trial.status in ("finished", "stopped") and trial.best(tune.mode)]
    return sorted(sound, key=lambda trial: _order(_value(trial, tune), tune))[: tune.finalists]


def judge_finalists(record: SweepRecord, tune: TuneConfig) -> tuple[Finalist, ...]:
    """Means and intervals over the seeds, the best mean first; those of whose seeds all failed but the first, last."""
    judged = [_judge(record, trial, tune) for trial in finalists_of(record, tune)]
    return tuple(sorted(judged, key=lambda one: (len(one.values) == 1, _order(one.mean, tune))))


def _judge(record: SweepRecord, trial: TrialRecord, tune: TuneConfig) -> Finalist:
    repeats = [one for one in record.repeats_of(trial.number) if one.status == "finished" and one.best(tune.mode)]
    values = tuple(_value(one, tune) for one in (trial, *repeats))
    mean, low, high = mean_interval(values)
    return Finalist(trial_id=trial.trial_id, values=values, mean=mean, low=low, high=high)


def _value(trial: TrialRecord, tune: TuneConfig) -> float:
    best = trial.best(tune.mode)
    assert best is not None
    return best.value


def _order(value: float, tune: TuneConfig) -> float:
    return value if tune.mode == "min" else -value
