"""The sweep: Ray Tune assembled from the config, run, and turned into a result."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.config import RunConfig
from luthier.digests import sha256_json
from luthier.errors import OutputError, ResourceError
from luthier.sweep_schema import SweepResult, TrialProgress
from luthier.tuning.concurrency import any_nested, max_concurrent, num_groups
from luthier.tuning.data import prepare_data, trials_tokenise
from luthier.tuning.finalists import finalists_of
from luthier.tuning.journal import FILE_NAME, Journal
from luthier.tuning.leaderboard import write_outcome
from luthier.tuning.record import SweepLog
from luthier.tuning.space import check_space, final_config, sweep_of, trial_config
from luthier.tuning.summary import summarize
from luthier.tuning.trial import (
    NUMBER,
    WATCHER_BUNDLE,
    TrialSpec,
    make_trainable,
    remove_leftovers,
    train_trial,
    trial_bundles,
    trial_demand,
)

if TYPE_CHECKING:
    from ray.tune import PlacementGroupFactory, Tuner
    from ray.tune.schedulers import TrialScheduler

    from luthier.tuning.budget import BudgetStopper
    from luthier.tuning.recorder import SweepRecorder
    from luthier.tuning.source import TrialSource

# Read by Ray Tune on the driver while a sweep runs.
TUNE_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # verbose=0 is silent only with the older reporter
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative data paths of the config stay valid in a trial
    "TUNE_GLOBAL_CHECKPOINT_S": str(10**9),  # the sweep's journal is what it goes on from
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial that reports nothing fails alone
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

    Trials see the training and validation splits only. The same seed draws the same trials. A sweep that was cut off goes on
    in the same directory: trials that ended stay as they are, others go on from their newest checkpoint.

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
    log = SweepLog(Journal(workdir / FILE_NAME, sweep_identity(cfg)), sweep_of(cfg).metric)
    prepare_data(cfg, base_model_dir)
    with _trial_spec(cfg, base_model_dir.resolve(), workdir / "trials", concurrent) as spec:
        ended_by = run_trials(spec, log, concurrent, on_progress)
        if ended_by is None:
            ended_by = repeat_finalists(spec, log, concurrent, on_progress)
    result = summarize(cfg, log.record, wall_s=log.wall_s, concurrent=concurrent, ended_by=ended_by)
    write_outcome(cfg, result, workdir)
    return result


@contextmanager
def _trial_spec(cfg: RunConfig, base_model_dir: Path, workdir: Path, concurrent: int) -> Iterator[TrialSpec]:
    from luthier.tuning.group import groups_of, train_in_group

    settings = sweep_of(cfg)
    seats = settings.adapters_together or 0
    with groups_of(trial_config(cfg, {}), base_model_dir, num_groups(settings, concurrent), seats) as groups:
        yield TrialSpec(cfg, base_model_dir, workdir, train_in_group(*groups) if groups else train_trial)


def winning_config(cfg: RunConfig, result: SweepResult) -> RunConfig:
    """The config of the run that follows a sweep: full length, the winner's values, no sweep."""
    return final_config(cfg, result.winning_overrides)


def sweep_identity(cfg: RunConfig) -> str:
    """Digest of what makes two sweeps the same, so that one may go on with the other's trials."""
    told = cfg.model_dump(mode="json", include={"seed", "model", "datasets", "data", "train", "tune"})
    for key in ("max_concurrent_trials", "budget", "num_samples", "seeds", "finalists"):
        told["tune"].pop(key)  # how much is tried, not what
    return sha256_json(told)


def run_trials(
    spec: TrialSpec, log: SweepLog, concurrent: int, on_progress: Callable[[TrialProgress], None] | None = None
) -> str | None:
    """Run what is left of the trials of ``spec.cfg.tune``, ``concurrent`` at a time, in the open Ray session.

    Returns:
        What of the budget was used up, if that ended it.
    """
    from luthier.tuning.proposing import make_searcher
    from luthier.tuning.scheduler import make_scheduler
    from luthier.tuning.source import TrialSource

    settings = sweep_of(spec.cfg)
    waiting = [trial for trial in log.record.drawn if trial.status is None]
    searcher = make_searcher(settings, spec.cfg.seed)
    source = TrialSource(log, settings.metric, settings.mode, waiting, searcher, settings.num_trials)
    return _run(spec, log, source, make_scheduler(spec.cfg, log.record), concurrent, on_progress)


def repeat_finalists(
    spec: TrialSpec, log: SweepLog, concurrent: int, on_progress: Callable[[TrialProgress], None] | None = None
) -> str | None:
    """Repeat the best trials with other seeds, at their full length, as ``tune.seeds`` asks.

    Returns:
        What of the budget was used up, if that ended it.
    """
    from ray.tune.schedulers import FIFOScheduler

    from luthier.tuning.source import TrialSource

    settings = sweep_of(spec.cfg)
    for trial in finalists_of(log.record, settings):
        base = int(trial.params.get("seed", spec.cfg.seed))
        for offset in range(1 + len(log.record.repeats_of(trial.number)), settings.seeds):
            log.draw({**trial.params, "seed": base + offset}, repeats=trial.number)
    waiting = [trial for trial in log.record.trials.values() if trial.repeats is not None and trial.status is None]
    if not waiting:
        return None
    source = TrialSource(log, settings.metric, settings.mode, waiting)
    return _run(spec, log, source, FIFOScheduler(), concurrent, on_progress)  # type: ignore[no-untyped-call]


def _run(
    spec: TrialSpec,
    log: SweepLog,
    source: TrialSource,
    scheduler: TrialScheduler,
    concurrent: int,
    on_progress: Callable[[TrialProgress], None] | None,
) -> str | None:
    from luthier.tuning.budget import BudgetStopper
    from luthier.tuning.recorder import SweepRecorder

    if source.num_left == 0:
        return None
    settings = sweep_of(spec.cfg)
    tokenises = trials_tokenise(settings)

    def demand(params: Mapping[str, Any]) -> dict[str, float]:
        whole = trial_demand(trial_config(spec.cfg, params), tokenises=tokenises)
        return {name: amount / (settings.adapters_together or 1) for name, amount in whole.items()}

    recorder = SweepRecorder(
        log,
        settings,
        demand,
        getattr(scheduler, "reasons", {}),
        on_progress,
    )
    stopper = BudgetStopper(settings.budget, log, recorder)
    rays_own = _rays_own(spec)
    shutil.rmtree(rays_own, ignore_errors=True)  # of an earlier command; none of it is read
    with _quiet_tune():
        _tuner(spec, source, scheduler, recorder, stopper, concurrent).fit()
    recorder.close(stopper.ended_by)
    shutil.rmtree(rays_own, ignore_errors=True)  # with what trials have handed on
    for directory in spec.workdir.glob("*/"):
        remove_leftovers(directory)  # workers of a stopped trial may have written after it was gone
    return stopper.ended_by


def _rays_own(spec: TrialSpec) -> Path:
    """Where Ray Tune keeps its notes, and what trials hand on."""
    return spec.workdir.parent / "ray"


def _tuner(
    spec: TrialSpec,
    source: TrialSource,
    scheduler: TrialScheduler,
    recorder: SweepRecorder,
    stopper: BudgetStopper,
    concurrent: int,
) -> Tuner:
    from ray import tune as ray_tune

    from luthier.tuning.handed_on import NewestCheckpoints

    cfg = spec.cfg
    settings = sweep_of(cfg)
    tokenises = trials_tokenise(settings)

    def resources(params: Mapping[str, Any]) -> PlacementGroupFactory:
        if settings.adapters_together:
            return ray_tune.PlacementGroupFactory([dict(WATCHER_BUNDLE)])  # the group has what its trials need
        values = {path: value for path, value in params.items() if path != NUMBER}
        return ray_tune.PlacementGroupFactory(trial_bundles(trial_config(cfg, values), tokenises=tokenises))

    return ray_tune.Tuner(
        ray_tune.with_resources(make_trainable(spec), resources),
        tune_config=ray_tune.TuneConfig(
            metric=settings.metric,
            mode=settings.mode,
            num_samples=source.num_left,
            # Trials of a bracket wait for one another without holding anything; resources limit how many run.
            max_concurrent_trials=None if settings.scheduler == "hyperband" else concurrent,
            scheduler=scheduler,
            search_alg=source,
            trial_dirname_creator=lambda trial: str(trial.trial_id),
            # A warm process skips the start and the imports, most of a short trial's cost; but only with its process
            # end the workers that a stopped trial has started.
            reuse_actors=not any_nested(cfg),
        ),
        run_config=ray_tune.RunConfig(
            name="tune",
            storage_path=str(_rays_own(spec)),
            callbacks=[recorder, NewestCheckpoints()],
            stop=stopper,
            verbose=0,
            failure_config=ray_tune.FailureConfig(max_failures=settings.max_trial_failures),
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
