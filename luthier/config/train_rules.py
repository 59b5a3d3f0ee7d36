"""Which training settings go together, beyond what each may be by itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, get_args

from luthier.config.compatibility import METHODS, STRATEGIES, refusal
from luthier.config.deepspeed_file import DeepspeedFile, contradictions
from luthier.config.objective import ClassificationConfig, DpoConfig

if TYPE_CHECKING:
    from luthier.config.train import TrainConfig

ZeroStage = Literal["z0", "z1", "z2", "z3", "z2_offload", "z3_offload"]


def misfits(train: TrainConfig) -> Iterator[str]:
    """What contradicts what, with the remedy; nothing where all goes together."""
    yield from _deepspeed(train)
    yield from _numbers(train)
    yield from _speed(train)
    yield from _method(train)
    yield from _table(train)
    yield from _objective(train)
    yield from _classification(train)


def _deepspeed(train: TrainConfig) -> Iterator[str]:
    if train.strategy == "deepspeed" and train.deepspeed is None:
        yield f"strategy: deepspeed needs train.deepspeed; set it to {', '.join(get_args(ZeroStage))} or a .json file"
    if train.strategy != "deepspeed" and train.deepspeed is not None:
        shown = train.deepspeed if isinstance(train.deepspeed, str) else train.deepspeed.file
        yield f"train.deepspeed={shown} is set but strategy is {train.strategy}; set strategy: deepspeed"
    if isinstance(train.deepspeed, DeepspeedFile) and (problems := list(contradictions(train.deepspeed, train))):
        yield "; ".join(problems)


def _numbers(train: TrainConfig) -> Iterator[str]:
    if train.min_workers > train.max_workers:
        yield f"num_workers={train.num_workers} is no range; put the smaller number first"
    least = train.min_per_device_train_batch_size
    if least is not None and least > train.per_device_train_batch_size:
        yield (
            f"min_per_device_train_batch_size={least} is above per_device_train_batch_size="
            f"{train.per_device_train_batch_size}; lower it"
        )


def _speed(train: TrainConfig) -> Iterator[str]:
    if train.packing and train.padding_free is False:
        yield "packing needs padding_free: true or auto; rows in a pack lie without padding"
    if train.use_liger_kernel and not train.use_gpu:
        yield (
            f"use_liger_kernel needs GPUs, and resources_per_worker is {train.resources_per_worker}; set it to false "
            "or give each worker a GPU"
        )


def _method(train: TrainConfig) -> Iterator[str]:
    for name in ("use_dora", "use_rslora", "load_in_4bit", "lora_modules_to_save"):
        if getattr(train, name) and train.method != "lora":
            yield f"{name} needs method: lora"
    if train.method != "lora" and train.init_lora_weights is not True:
        yield "init_lora_weights needs method: lora"
    if train.method != "full" and (train.freeze_layers or train.freeze_modules):
        yield "freeze_layers and freeze_modules need method: full; adapters train on a frozen base anyway"
    if train.init_lora_weights == "orthogonal" and train.lora_r % 2:
        yield f"init_lora_weights: orthogonal needs an even lora_r; it is {train.lora_r}"
    if train.changes_base and (train.use_dora or train.load_in_4bit):
        other = "use_dora" if train.use_dora else "load_in_4bit"
        yield (
            f"init_lora_weights: {train.init_lora_weights} changes the base's weights, which {other} does not allow; "
            "set it to true"
        )


def _table(train: TrainConfig) -> Iterator[str]:
    """What the table of strategies, methods and devices refuses."""
    candidates = STRATEGIES if train.strategy == "auto" else (train.strategy_row,)
    for method in train.method_columns:
        reasons = [refusal(strategy, method, train.device) for strategy in candidates]
        if all(reasons):
            named = "any strategy" if len(reasons) > 1 else candidates[0]
            yield f"{METHODS[method]} with {named} on a {train.device.upper()}: {reasons[0]}"


def _objective(train: TrainConfig) -> Iterator[str]:
    if train.objective == "dpo" and train.method == "full":
        yield (
            "objective: dpo needs method: lora, because its reference is the frozen base with the adapter switched off; "
            "set method: lora"
        )
    if not train.learns_tokens and (train.packing or train.padding_free is True):
        key = "packing" if train.packing else "padding_free"
        yield f"{key} is for objective: sft and pretraining; {train.objective} reads its rows apart: leave it out"
    for name, unset in (("dpo", DpoConfig()), ("classification", ClassificationConfig())):
        if train.objective != name and getattr(train, name) != unset:
            yield f"train.{name} is set but objective is {train.objective}; set objective: {name}, or leave it out"


def _classification(train: TrainConfig) -> Iterator[str]:
    if train.objective == "classification" and train.load_in_4bit:
        yield "load_in_4bit is for causal language models; leave it out for objective: classification"
    if train.classification.freeze_body and train.method != "full":
        yield (
            f"classification.freeze_body=true trains the head alone, so method: {train.method} would add nothing; "
            "set method: full"
        )
    if train.classification.freeze_body and train.strategy_row.startswith("z3"):
        yield (
            "classification.freeze_body=true with deepspeed: z3 divides a body that nobody trains; set deepspeed: z2, "
            "or strategy: ddp"
        )
