"""What a sweep came to: its winner, and what its trials tell together."""

from __future__ import annotations

from luthier.config import RunConfig
from luthier.errors import LuthierError
from luthier.sweep_schema import Aim, SweepResult
from luthier.tuning.analysis import pareto, rung_agreement
from luthier.tuning.finalists import judge_finalists
from luthier.tuning.record import SweepRecord
from luthier.tuning.space import sweep_of


def summarize(
    cfg: RunConfig, record: SweepRecord, *, wall_s: float, concurrent: int, ended_by: str | None = None
) -> SweepResult:
    """Choose the winner among the trials that did not fail: by the mean over seeds, where there are several.

    Args:
        cfg: The run's config.
        record: All that happened.
        wall_s: Seconds of this command.
        concurrent: Trials that ran at a time.
        ended_by: What of the budget was used up.

    Raises:
        LuthierError: There is no winner; lists each trial's reason.
    """
    settings = sweep_of(cfg)
    trials = tuple(trial.result(settings.mode) for trial in record.drawn)
    if not trials:
        raise LuthierError("the sweep ended before any trial started; the cluster may have lost its nodes.")
    finalists = judge_finalists(record, settings)
    others = {name: mode for name, mode in settings.more_metrics.items() if name != settings.metric}
    more = tuple(Aim(metric=name, mode=mode) for name, mode in others.items())
    result = SweepResult(
        metric=settings.metric,
        mode=settings.mode,
        trials=trials,
        best_trial_id=trials[0].trial_id,
        winning_overrides={},
        wall_s=record.past_wall_s + wall_s,
        max_concurrent_trials=concurrent,
        more_metrics=more,
        pareto=pareto(trials, (Aim(metric=settings.metric, mode=settings.mode), *more)) if more else (),
        rung_agreement=rung_agreement(trials, settings.mode),
        finalists=finalists,
        spent=record.spent(wall_s, ended_by),
    )
    best = result.ranked()[0]
    if best.status == "failed" or best.metric is None:
        reasons = "\n".join(f"  {trial.trial_id} {trial.params}: {trial.reason}" for trial in trials)
        raise LuthierError(f"all {len(trials)} trials of the sweep failed:\n{reasons}")
    if finalists:
        best = next(trial for trial in trials if trial.trial_id == finalists[0].trial_id)
    return result.model_copy(update={"best_trial_id": best.trial_id, "winning_overrides": dict(best.params)})
