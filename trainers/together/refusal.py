"""Which runs can share a base, told before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterator

from luthier.config.run import RunConfig
from luthier.config.train import TrainConfig
from luthier.errors import ConfigError


def refuse_group(cfg: RunConfig) -> None:
    """Refuse a run that can't be trained together with others on one base.

    Raises:
        ConfigError: Names the first key that rules it out, its value and the remedy.
    """
    for key, value, why, remedy in _reasons(cfg.train):
        raise ConfigError(f"train.{key}={value} can't be trained together with other trials: {why}; {remedy}.")
    if cfg.stages:
        raise ConfigError(
            f"stages has {len(cfg.stages)} entries, and trials that share a base have one stage each; leave it out."
        )


def _reasons(train: TrainConfig) -> Iterator[tuple[str, object, str, str]]:
    """Key, value, why not, and what to do instead."""
    if train.method != "lora":
        yield "method", train.method, "the base must be frozen", "set it to lora"
    if train.objective != "sft":
        yield "objective", train.objective, "only sft lays all rows out in one sequence here", "set it to sft"
    if train.max_workers > 1:
        yield "num_workers", train.num_workers, "the base is in one process", "set it to 1"
    if train.strategy != "ddp":
        yield "strategy", train.strategy, "there is nothing to divide among workers", "set it to ddp"
    if train.lora_dropout:
        yield "lora_dropout", train.lora_dropout, "trials would draw from one generator", "set it to 0"
    if train.lora_modules_to_save:
        named = list(train.lora_modules_to_save)
        yield "lora_modules_to_save", named, "each trial would need its own copy of the module", "leave it out"
    if train.changes_base:
        yield "init_lora_weights", train.init_lora_weights, "it changes the base's weights", "set it to true"
    for key in ("use_dora", "load_in_4bit", "packing", "gradient_checkpointing", "torch_compile", "use_liger_kernel"):
        if getattr(train, key):
            yield key, "true", "the layers that trials share do without it", "set it to false"
    if train.padding_free is False:
        yield "padding_free", "false", "rows of all trials lie one behind the other", "set it to auto"
    if train.log_samples:
        yield "log_samples", "true", "no such log is written here", "set it to false"
