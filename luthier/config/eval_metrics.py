"""What can be measured at each validation beside the loss, and of which runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from luthier.config.run import RunConfig

EvalMetric = Literal["perplexity", "accuracy", "macro_f1", "weighted_f1", "exact_match", "rouge_l"]

_OF_CLASSES = ("accuracy", "macro_f1", "weighted_f1")
LOWER_IS_BETTER = ("loss", "eval_loss", "eval_perplexity")
SWEEPABLE = (
    "eval_loss",
    "loss",
    *(f"eval_{name}" for name in get_args(EvalMetric)),
    *(f"eval_rewards/{name}" for name in ("chosen", "rejected", "accuracies", "margins")),
)
"""Names in the metrics stream that a sweep can go by."""


def measured_for(metrics: tuple[str, ...], objective: str) -> tuple[str, ...]:
    """Which ``train.eval_metrics`` a sweep by these names of the metrics stream needs."""
    names = (name.removeprefix("eval_") for name in metrics)
    told = ("accuracy",) if objective == "classification" else ()  # a classifier's loss tells it anyway
    return tuple(name for name in names if name in get_args(EvalMetric) and name not in told)


def check_eval_metrics(cfg: RunConfig) -> None:
    """Refuse what can't be measured of this run.

    Raises:
        ValueError: Names the metric, the setting in its way and the remedy.
    """
    train = cfg.train
    generated = [name for name in train.eval_metrics if name != "perplexity"]
    if "perplexity" in train.eval_metrics and not train.learns_tokens:
        raise ValueError(
            f"train.eval_metrics: perplexity is not measured for train.objective: {train.objective}; leave it out"
        )
    if not generated:
        return
    if train.objective != "sft":
        raise ValueError(
            f"train.eval_metrics: {generated[0]} is measured on generated answers, which train.objective: {train.objective} "
            "does not teach; leave it out"
        )
    unlabelled = [one.name for one in cfg.datasets if not one.labels]
    if unlabelled and (of_classes := [name for name in generated if name in _OF_CLASSES]):
        raise ValueError(
            f"train.eval_metrics: {of_classes[0]} needs the labels of dataset {unlabelled[0]!r}; list them in its labels"
        )
    if train.strategy_row == "fsdp2" or train.strategy_row.startswith("z3"):
        raise ValueError(
            f"train.eval_metrics: {generated[0]} needs whole weights on every worker to generate answers, which "
            f"strategy: {train.strategy} divides; use ddp or a ZeRO stage below 3"
        )
