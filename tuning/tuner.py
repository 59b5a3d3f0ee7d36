"""The sweep: Ray Tune assembled from the config, run, and turned into a result."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.config import RunConfig
from luthier.errors import LuthierError, OutputError, ResourceError
from luthier.sweep_schema import SweepResult, TrialProgress, TrialResult
from luthier.tuning.concurrency import any_nested, max_concurrent
from luthier.tuning.data import prepare_data, trials_tokenise
from luthier.tuning.leaderboard import write_outcome
from luthier.tuning.space import check_space, final_config, num_trials, sweep_of, to_param_space, trial_config
from luthier.tuning.trial import TrialSpec, make_trainable, remove_leftovers, trial_bundles

if TYPE_CHECKING:
    from ray.tune import PlacementGroupFactory, Tuner
    from ray.tune.schedulers import TrialScheduler

    from luthier.tuning.recorder import SweepRecorder

# Read by Ray Tune on the driver while a sweep runs.
TUNE_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # verbose=0 is silent only with the older reporter
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative data paths of the config stay valid in a trial
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the leaderboard holds the history
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # reasons are in the leaderboard
}


def tune(
    cfg: RunConfig,
    *,
    workdir: Path,
    base_model_dir: Path,
    on_progress: Callable[[TrialProgress], None] | None = None,
) -> SweepResult:
    """Run the sweep of ``cfg.tune`` in the Ray session that is open.

    Trials see the training and validation splits only. The same seed draws the same trials.

    Args:
        cfg: The run's config, with a ``tune`` section.
        workdir: Where trials work and ``leaderboard.json`` and ``winner.yaml`` are written.
        base_model_dir: The prepared base model, shared by all trials.
        on_progress: Called for each trial that starts, validates or ends.

    Returns:
        Every trial and the winner.

    Raises:
        ConfigError: The space could produce an invalid config; nothing was started.
        ResourceError: No Ray session is open, or the cluster can't hold one trial.
        DataError: A data file is missing or malformed.
        OutputError: ``workdir`` can't be written.
        LuthierError: Every trial failed; lists the reasons.
    """
    import ray

    check_space(cfg)
    if not ray.is_initialized():
        raise ResourceError("no Ray session is open; open one with luthier.cluster.session.start(cfg).")
    concurrent = max_concurrent(cfg, ray.cluster_resources())  # type: ignore[no-untyped-call]
    workdir = workdir.resolve()
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"the sweep's directory {str(workdir)!r} can't be made: {error}.") from error
    started_s = time.monotonic()
    prepare_data(cfg, base_model_dir)
    trials = run_trials(TrialSpec(cfg, base_model_dir.resolve(), workdir / "trials"), concurrent, on_progress)
    result = summarize(cfg, trials, wall_s=time.monotonic() - started_s, concurrent=concurrent)
    write_outcome(cfg, result, workdir)
    return result


def winning_config(cfg: RunConfig, result: SweepResult) -> RunConfig:
    """The config of the run that follows a sweep: full length, the winner's values, no sweep."""
    return final_config(cfg, result.winning_overrides)


def summarize(cfg: RunConfig, trials: tuple[TrialResult, ...], *, wall_s: float, concurrent: int) -> SweepResult:
    """Choose the winner among the trials that did not fail.

    Raises:
        LuthierError: There is none; lists each trial's reason.
    """
    settings = sweep_of(cfg)
    result = SweepResult(
        metric=settings.metric,
        mode=settings.mode,
        trials=trials,
        best_trial_id=trials[0].trial_id,
        winning_overrides={},
        wall_s=wall_s,
        max_concurrent_trials=concurrent,
    )
    best = result.ranked()[0]
    if best.status == "failed" or best.metric is None:
        reasons = "\n".join(f"  {trial.trial_id} {trial.params}: {trial.reason}" for trial in trials)
        raise LuthierError(f"all {len(trials)} trials of the sweep failed:\n{reasons}")
    return result.model_copy(update={"best_trial_id": best.trial_id, "winning_overrides": dict(best.params)})


def run_trials(
    spec: TrialSpec, concurrent: int, on_progress: Callable[[TrialProgress], None] | None = None
) -> tuple[TrialResult, ...]:
    """Run every trial of ``spec.cfg.tune``, ``concurrent`` at a time, in the open Ray session.

    Returns:
        The trials in the order drawn, failed ones included.
    """
    from luthier.tuning.recorder import SweepRecorder
    from luthier.tuning.scheduler import ReasonedAsha, make_scheduler

    settings = sweep_of(spec.cfg)
    scheduler = make_scheduler(settings)
    recorder = SweepRecorder(
        metric=settings.metric,
        mode=settings.mode,
        num_trials=num_trials(settings),
        reasons=scheduler.reasons if isinstance(scheduler, ReasonedAsha) else {},
        on_progress=on_progress,
    )
    with _quiet_tune():
        _tuner(spec, concurrent, scheduler, recorder).fit()
    for directory in spec.workdir.glob("*/"):
        remove_leftovers(directory)  # workers of a stopped trial may have written after it was gone
    trials = recorder.results()
    if not trials:
        raise LuthierError("the sweep ended before any trial started; the cluster may have lost its nodes.")
    return trials


def _tuner(spec: TrialSpec, concurrent: int, scheduler: TrialScheduler, recorder: SweepRecorder) -> Tuner:
    from ray import tune as ray_tune
    from ray.tune.search.basic_variant import BasicVariantGenerator

    cfg = spec.cfg
    settings = sweep_of(cfg)
    tokenises = trials_tokenise(settings)

    def resources(params: Mapping[str, Any]) -> PlacementGroupFactory:
        return ray_tune.PlacementGroupFactory(trial_bundles(trial_config(cfg, params), tokenises=tokenises))

    return ray_tune.Tuner(
        ray_tune.with_resources(make_trainable(spec), resources),
        param_space=to_param_space(settings),
        tune_config=ray_tune.TuneConfig(
            metric=settings.metric,
            mode=settings.mode,
            num_samples=settings.num_samples,
            scheduler=scheduler,
            search_alg=BasicVariantGenerator(max_concurrent=concurrent, random_state=cfg.seed),
            trial_dirname_creator=lambda trial: str(trial.trial_id),
            # A warm process skips the start and the imports, most of a short trial's cost; but only with its process
            # end the workers that a stopped trial has started.
            reuse_actors=not any_nested(cfg),
        ),
        run_config=ray_tune.RunConfig(
            name="tune",
            storage_path=str(spec.workdir.parent / "ray"),
            callbacks=[recorder],
            verbose=0,
            failure_config=ray_tune.FailureConfig(max_failures=0),
        ),
    )


@contextmanager
def _quiet_tune() -> Iterator[None]:
    """Tune's own displays and log files off for the length of a block; what the user has set stays."""
    added = {key: value for key, value in TUNE_ENVIRONMENT.items() if key not in os.environ}
    summary = logging.getLogger("ray.tune.tune")  # repeats which trials failed, without the reason
    level = summary.level
    os.environ.update(added)
    summary.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        summary.setLevel(level)
        for key in added:
            os.environ.pop(key, None)
