"""Which trials go on: ASHA, with the reason of every stop kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController
    from ray.tune.experiment import Trial

    from luthier.config.tune import TuneConfig

# Rungs grow geometrically, so a far-away last rung costs nothing; it only must lie beyond any trial's last
# validation, because ASHA stops a trial that reaches it.
MAX_VALIDATIONS = 10**6


class ReasonedAsha(AsyncHyperBandScheduler):
    """Asynchronous successive halving (Li et al. 2020) that remembers why it stopped a trial.

    Time is counted in validations, so the rungs do not depend on batch size or data size.

    Attributes:
        reasons: Ray's trial id to one sentence.
    """

    def __init__(self, *, grace_period: int, reduction_factor: int) -> None:
        super().__init__(max_t=MAX_VALIDATIONS, grace_period=grace_period, reduction_factor=reduction_factor)
        self.reasons: dict[str, str] = {}

    def on_trial_result(self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]) -> str:
        """ASHA's decision, noted where it is to stop."""
        decision: str = super().on_trial_result(tune_controller, trial, result)
        if decision == TrialScheduler.STOP:
            count = result["training_iteration"]
            metric = str(self._metric)
            self.reasons[trial.trial_id] = f"{metric} {result[metric]:.4g} fell behind at validation {count}"
        return decision


def make_scheduler(tune: TuneConfig) -> ReasonedAsha | FIFOScheduler:
    """The scheduler that the config names."""
    if tune.scheduler == "none":
        return FIFOScheduler()  # type: ignore[no-untyped-call]
    return ReasonedAsha(grace_period=tune.grace_period, reduction_factor=tune.reduction_factor)
