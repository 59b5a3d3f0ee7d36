"""Which parts of a configuration fit which objective; checked when it is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from luthier.config.sequence import judged_datasets
from luthier.evaluation_schema import CLASS_METRICS

if TYPE_CHECKING:
    from luthier.config.run import RunConfig

BASELINES: dict[str, tuple[str, ...]] = {
    "sft": ("base", "few_shot", "incumbent"),
    "dpo": ("base", "few_shot", "incumbent"),
    "pretraining": ("base", "incumbent"),
    "classification": ("majority", "incumbent"),
}
"""Whom a candidate can be held against: a base without a head classifies nothing, and plain text asks nothing."""

_METRICS: dict[str, tuple[str, ...]] = {"pretraining": ("perplexity",), "classification": CLASS_METRICS}
"""What can be measured, where that is not everything."""


def fill_in(raw: Any) -> Any:
    """A raw configuration whose objective has no few-shot prompt, with the defaults that follow from that.

    Nothing that the user wrote is changed; a malformed part is left for the validation to name.
    """
    train = raw.get("train") if isinstance(raw, Mapping) else None
    objective = str(train.get("objective")) if isinstance(train, Mapping) else ""
    if "few_shot" in BASELINES.get(objective, ("few_shot",)):
        return raw
    defaults: dict[str, dict[str, Any]] = {"evaluate": {"few_shot_k": 0}, "gate": {"against": BASELINES[objective]}}
    for name, part in defaults.items():
        given = raw.get(name, {})
        raw = {**raw, name: {**part, **given} if isinstance(given, Mapping) else given}
    return raw


def check(cfg: RunConfig) -> None:
    """Refuse settings of other stages that mean nothing for the run's objective.

    Raises:
        ValueError: Names the setting, its value and the remedy.
    """
    objective, gate = cfg.train.objective, cfg.gate
    foreign = [name for name in gate.against if name not in BASELINES[objective]]
    if foreign:
        raise ValueError(
            f"gate.against names {foreign[0]}, which train.objective: {objective} has not; set gate.against to some of "
            f"[{', '.join(BASELINES[objective])}]"
        )
    if "few_shot" not in BASELINES[objective] and cfg.evaluate.few_shot_k:
        raise ValueError(
            f"evaluate.few_shot_k={cfg.evaluate.few_shot_k}, but train.objective: {objective} has no prompt to put "
            "examples in; set it to 0 or leave it out"
        )
    metrics = _METRICS.get(objective)
    if gate.metric is not None and metrics is not None and gate.metric not in metrics:
        raise ValueError(
            f"gate.metric={gate.metric} is not measured for train.objective: {objective}; leave it out, or set it to "
            f"one of {', '.join(metrics)}"
        )
    if gate.min_value is not None and "perplexity" in (gate.metric, *(metrics or ())):
        raise ValueError(
            f"gate.min_value={gate.min_value} can't bound perplexity, of which less is better; leave it out"
        )
    _check_datasets(cfg)


def _check_datasets(cfg: RunConfig) -> None:
    if cfg.train.answers_prompts:
        return
    for dataset in judged_datasets(cfg):
        for name in ("system", "prompt"):
            if getattr(dataset, name) != type(dataset).model_fields[name].default:
                raise ValueError(
                    f"datasets[].{name} of {dataset.name!r} has no place in train.objective: {cfg.train.objective}, "
                    "which reads a row's text as it is; leave it out"
                )
