"""The trainings that a run consists of: one, or those of its stages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

if TYPE_CHECKING:
    from luthier.config.data import DatasetConfig
    from luthier.config.run import RunConfig

_SHAPES_WEIGHTS = (
    "method",
    "lora_r",
    "lora_alpha",
    "lora_target_modules",
    "use_rslora",
    "use_dora",
    "init_lora_weights",
    "lora_modules_to_save",
    "load_in_4bit",
)
"""Settings of ``train`` that all stages share, because each loads the weights of the one before it."""

_OF_THE_WHOLE = ("stages", "tune", "evaluate", "gate")
"""Parts of a run's config that its stages have not."""


def trainings(cfg: RunConfig) -> tuple[RunConfig, ...]:
    """The config of each training of a run, in order; of a run without stages its own."""
    return tuple(_of_stage(cfg, number) for number in range(len(cfg.stages))) or (cfg,)


def judged_datasets(cfg: RunConfig) -> tuple[DatasetConfig, ...]:
    """The datasets whose test rows a run is judged on: those that were learnt with the run's own objective."""
    alike = [one for one in trainings(cfg) if one.train.objective == cfg.train.objective]
    names = {dataset.name for one in alike for dataset in one.datasets}
    return tuple(dataset for dataset in cfg.datasets if dataset.name in names)


def check(cfg: RunConfig) -> None:
    """Refuse stages that can't follow each other.

    Raises:
        ValueError: Names the stage, the setting and the remedy.
    """
    if not cfg.stages:
        return
    names = [stage.name for stage in cfg.stages]
    if len(set(names)) != len(names):
        raise ValueError(f"stages[].name must be distinct; got {names}")
    if cfg.tune is not None:
        raise ValueError("tune searches settings of one training, and the run has stages; leave one of the two out")
    if cfg.train.changes_base:
        raise ValueError(
            f"train.init_lora_weights: {cfg.train.init_lora_weights} takes a part of the base into the adapter, which no "
            "later stage could go on with; set it to true"
        )
    known = {dataset.name for dataset in cfg.datasets}
    for number, stage in enumerate(cfg.stages):
        for name in stage.datasets if stage.datasets is not None else known:
            if name not in known:
                raise ValueError(f"stages[{number}].datasets names {name!r}; datasets are {', '.join(sorted(known))}")
        for key in _SHAPES_WEIGHTS:
            if key in stage.train:
                raise ValueError(
                    f"stages[{number}].train.{key} must be the same in all stages; set train.{key} instead"
                )
    parts = trainings(cfg)
    _check_objectives(cfg, parts)
    _check_guards(cfg, parts)


def _check_objectives(cfg: RunConfig, parts: Sequence[RunConfig]) -> None:
    objectives = [one.train.objective for one in parts]
    if objectives[-1] != cfg.train.objective:
        raise ValueError(
            f"train.objective is {cfg.train.objective} and the last stage's {objectives[-1]}; the run is judged and served "
            f"by what it learns last: set train.objective: {objectives[-1]}, and other objectives in stages[].train"
        )
    if "classification" in objectives:
        raise ValueError(
            "stages can't learn train.objective: classification, whose head belongs to one set of labels; learn all "
            "datasets together, with datasets[].weight"
        )


def _check_guards(cfg: RunConfig, parts: Sequence[RunConfig]) -> None:
    """A guard needs something to compare."""
    earlier: dict[str, bool] = {}
    for number, (stage, one) in enumerate(zip(cfg.stages, parts, strict=True)):
        unseen = [name for name, has_validation in earlier.items() if not has_validation]
        if stage.max_forgetting is not None and (unseen or not earlier):
            why = f"dataset {unseen[0]!r} has no validation file" if unseen else "no stage comes before it"
            raise ValueError(
                f"stages[{number}].max_forgetting compares validation losses, but {why}; add it or leave it out"
            )
        earlier |= {dataset.name: dataset.validation is not None for dataset in one.datasets}


def _of_stage(cfg: RunConfig, number: int) -> RunConfig:
    stage = cfg.stages[number]
    raw: dict[str, Any] = cfg.model_dump(mode="json", exclude=set(_OF_THE_WHOLE))
    raw["train"] |= stage.train
    raw["data"] |= stage.data
    if stage.datasets is not None:
        raw["datasets"] = [dataset for dataset in raw["datasets"] if dataset["name"] in stage.datasets]
    try:
        return type(cfg).model_validate(raw)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, (f"stages[{number}]", *problem["loc"])))
        raise ValueError(f"{place}: {str(problem['msg']).removeprefix('Value error, ')}") from error
