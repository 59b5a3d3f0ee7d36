"""A user's DeepSpeed JSON: read once, held against the run's own settings, its ``"auto"`` values filled in."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.config.base import Config

if TYPE_CHECKING:
    from luthier.config.train import TrainConfig

AUTO = "auto"

KNOWN = {
    "activation_checkpointing",
    "aio",
    "bf16",
    "checkpoint",
    "comms_logger",
    "communication_data_type",
    "data_types",
    "disable_allgather",
    "dump_state",
    "flops_profiler",
    "fp16",
    "gradient_accumulation_steps",
    "gradient_clipping",
    "gradient_predivide_factor",
    "memory_breakdown",
    "optimizer",
    "prescale_gradients",
    "scheduler",
    "steps_per_print",
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "wall_clock_breakdown",
    "zero_allow_untested_optimizer",
    "zero_force_ds_cpu_optimizer",
    "zero_optimization",
}
"""Sections of a DeepSpeed JSON that a run can have. DeepSpeed overlooks a key that it doesn't know; we don't."""

ZERO_KNOWN = {
    "allgather_bucket_size",
    "allgather_partitions",
    "contiguous_gradients",
    "ignore_unused_parameters",
    "memory_efficient_linear",
    "offload_optimizer",
    "offload_param",
    "overlap_comm",
    "reduce_bucket_size",
    "reduce_scatter",
    "round_robin_gradients",
    "stage",
    "stage3_gather_16bit_weights_on_model_save",
    "stage3_max_live_parameters",
    "stage3_max_reuse_distance",
    "stage3_param_persistence_threshold",
    "stage3_prefetch_bucket_size",
    "sub_group_size",
    "use_multi_rank_bucket_allreduce",
    "zero_hpz_partition_size",
}
"""Keys of ``zero_optimization`` that change where and when things lie and move, and not what is computed."""

SCHEDULES = {"WarmupDecayLR": "linear", "WarmupCosineLR": "cosine", "WarmupLR": "constant_with_warmup"}
"""DeepSpeed's schedules, and what draws the same curve here."""

_BY_MODEL = ("reduce_bucket_size", "stage3_prefetch_bucket_size", "stage3_param_persistence_threshold")


class DeepspeedFile(Config):
    """The content of a DeepSpeed JSON, kept with the run's config so that the file may change or go."""

    file: str
    """Where it was read from."""

    settings: dict[str, Any]
    """What stood in it."""

    @property
    def stage(self) -> int:
        """ZeRO stage."""
        stage = self._zero.get("stage", 0)
        return stage if isinstance(stage, int) else 0

    @property
    def offload(self) -> bool:
        """Whether optimizer state or weights are kept in the host's memory."""
        sections = (self._zero.get(name) for name in ("offload_optimizer", "offload_param"))
        return any(isinstance(one, dict) and one.get("device", "none") != "none" for one in sections)

    @property
    def _zero(self) -> dict[str, Any]:
        section = self.settings.get("zero_optimization")
        return section if isinstance(section, dict) else {}


def read_deepspeed_file(path: str) -> DeepspeedFile:
    """Read a DeepSpeed JSON.

    Raises:
        ValueError: It is missing, no JSON, or no object; the message names the file.
    """
    try:
        settings = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(
            f"DeepSpeed file {path!r} can't be read ({error.strerror}); give the path of a JSON file"
        ) from error
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path}: holds {type(settings).__name__}; it must be an object of DeepSpeed's settings")
    return DeepspeedFile(file=path, settings=settings)


def contradictions(found: DeepspeedFile, train: TrainConfig) -> Iterator[str]:
    """What a DeepSpeed JSON says otherwise than the run's config, or asks of luthier that it does not do.

    Args:
        found: The file.
        train: The run's settings, which ``"auto"`` stands for.

    Yields:
        Problems, each with the file, the key, both values and the remedy.
    """
    settings = found.settings
    for key in settings:
        if key not in KNOWN:
            near = difflib.get_close_matches(key, sorted(KNOWN), n=1, cutoff=0.6)
            hint = f"did you mean {near[0]!r}?" if near else "luthier does not use it; remove it"
            yield f"{found.file}: unknown key {key!r}; {hint}"
    for dotted, ours, name in _ours(train):
        theirs = _at(settings, dotted)
        if theirs not in (None, AUTO, ours):
            yield (
                f"{found.file}: {dotted} is {json.dumps(theirs)}, but {name} is {json.dumps(ours)}; "
                f'write "auto" in the file, or make them equal'
            )
    yield from (f"{found.file}: {problem}" for problem in _refused(settings, train))


def _ours(train: TrainConfig) -> Iterator[tuple[str, Any, str]]:
    """Key of DeepSpeed, our value, and how we call it."""
    micro, accumulation = train.per_device_train_batch_size, train.gradient_accumulation_steps
    yield "train_micro_batch_size_per_gpu", micro, "train.per_device_train_batch_size"
    yield "gradient_accumulation_steps", accumulation, "train.gradient_accumulation_steps"
    product = "per_device_train_batch_size * gradient_accumulation_steps * num_workers of train"
    yield "train_batch_size", micro * accumulation * train.max_workers, product
    yield "gradient_clipping", train.max_grad_norm, "train.max_grad_norm"
    yield "bf16.enabled", train.bf16, "train.bf16"
    yield "optimizer.params.lr", train.learning_rate, "train.learning_rate"
    yield "optimizer.params.weight_decay", train.weight_decay, "train.weight_decay"
    yield "scheduler.params.warmup_max_lr", train.learning_rate, "train.learning_rate"


def _refused(settings: Mapping[str, Any], train: TrainConfig) -> Iterator[str]:
    """Settings that mean something which luthier does otherwise or not at all."""
    yield from _unknown_zero(settings)
    stage = _at(settings, "zero_optimization.stage")
    if stage not in (None, 0, 1, 2, 3):
        yield f"zero_optimization.stage is {json.dumps(stage)}; set it to 0, 1, 2 or 3"
    if _at(settings, "fp16.enabled") not in (None, False, AUTO):
        yield "fp16.enabled is true, but luthier trains in float32 or bfloat16; remove fp16, and set train.bf16"
    for name in ("offload_optimizer", "offload_param"):
        device = _at(settings, f"zero_optimization.{name}.device")
        if device not in (None, "none", "cpu"):
            yield f'zero_optimization.{name}.device is {json.dumps(device)}; set it to "cpu" or "none"'
    kind = _at(settings, "optimizer.type")
    if kind not in (None, AUTO, "AdamW"):
        yield f"optimizer.type is {json.dumps(kind)}, but luthier trains with AdamW; write AdamW or remove the section"
    yield from _other_optimizer(settings)
    yield from _other_schedule(settings, train)
    for dotted in _autos(settings):
        if dotted not in _FILLED:
            yield f'{dotted} is "auto", which nothing in a run\'s config answers to; write a value'


def _unknown_zero(settings: Mapping[str, Any]) -> Iterator[str]:
    zero = settings.get("zero_optimization", {})
    if not isinstance(zero, dict):
        yield f"zero_optimization is {json.dumps(zero)}; it must be an object"
        return
    for key in zero:
        if key not in ZERO_KNOWN:
            near = difflib.get_close_matches(key, sorted(ZERO_KNOWN), n=1, cutoff=0.6)
            yield f"zero_optimization: unknown key {key!r}; {f'did you mean {near[0]!r}?' if near else 'remove it'}"


def _other_optimizer(settings: Mapping[str, Any]) -> Iterator[str]:
    fixed = {"betas": [0.9, 0.999], "eps": 1e-8, "adam_w_mode": True, "torch_adam": True, "bias_correction": True}
    given = _at(settings, "optimizer.params") or {}
    for key, value in given.items() if isinstance(given, dict) else ():
        if key in ("lr", "weight_decay"):
            continue
        if key not in fixed:
            yield f"optimizer.params.{key} is unknown; remove it"
        elif value not in (AUTO, fixed[key]):
            ours = json.dumps(fixed[key])
            yield f"optimizer.params.{key} is {json.dumps(value)}, but luthier trains with {ours}; remove it"


def _other_schedule(settings: Mapping[str, Any], train: TrainConfig) -> Iterator[str]:
    section = settings.get("scheduler")
    if section is None:
        return
    kind = _at(settings, "scheduler.type")
    if kind not in SCHEDULES:
        known = ", ".join(SCHEDULES)
        yield f"scheduler.type is {json.dumps(kind)}; write one of {known}, or remove the section"
    elif SCHEDULES[kind] != train.lr_scheduler_type:
        yield (
            f"scheduler.type is {kind}, which is train.lr_scheduler_type={SCHEDULES[kind]}, but that is "
            f"{train.lr_scheduler_type}; make them equal, or remove the section"
        )
    given = _at(settings, "scheduler.params") or {}
    for key, value in given.items() if isinstance(given, dict) else ():
        if key == "warmup_min_lr" and value in (AUTO, 0):
            continue
        if key == "warmup_type" and value in (AUTO, "linear"):
            continue
        if key == "warmup_max_lr" or (key in ("total_num_steps", "warmup_num_steps") and value == AUTO):
            continue
        yield (
            f"scheduler.params.{key} is {json.dumps(value)}, but train.lr_scheduler_type and train.warmup_ratio decide; "
            'write "auto" or remove it'
        )


_FILLED = {
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "train_batch_size",
    "gradient_clipping",
    "bf16.enabled",
    "fp16.enabled",
    "optimizer.type",
    *(f"optimizer.params.{key}" for key in ("lr", "weight_decay", "betas", "eps", "adam_w_mode", "torch_adam")),
    "optimizer.params.bias_correction",
    *(f"scheduler.params.{key}" for key in ("warmup_min_lr", "warmup_max_lr", "warmup_num_steps", "total_num_steps")),
    "scheduler.params.warmup_type",
    *(f"zero_optimization.{key}" for key in _BY_MODEL),
}
"""Keys whose ``"auto"`` we know a value for."""


def _autos(node: Any, path: str = "") -> Iterator[str]:
    if node == AUTO:
        yield path
    elif isinstance(node, dict):
        for key, value in node.items():
            yield from _autos(value, f"{path}.{key}" if path else key)


def _at(settings: Any, dotted: str) -> Any:
    """The value at a dotted key; None where there is none."""
    for key in dotted.split("."):
        if not isinstance(settings, dict) or key not in settings:
            return None
        settings = settings[key]
    return settings
