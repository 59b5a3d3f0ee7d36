"""How to fine-tune."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal, get_args

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from luthier.config.base import Config
from luthier.config.compatibility import Device
from luthier.config.deepspeed_file import DeepspeedFile, read_deepspeed_file
from luthier.config.eval_metrics import EvalMetric
from luthier.config.objective import ClassificationConfig, DpoConfig, ObjectiveName
from luthier.config.train_rules import ZeroStage, misfits

Scheduler = Literal["linear", "cosine", "constant", "constant_with_warmup"]
Positive = Annotated[int, Field(ge=1)]
WorkerCount = Annotated[
    Annotated[Positive, Tag("number")] | Annotated[tuple[Positive, Positive], Tag("range")],
    Discriminator(lambda value: "range" if isinstance(value, list | tuple) else "number"),
]

_INITS = ("gaussian", "orthogonal", "olora", "pissa")


class TrainConfig(Config):
    """One fine-tuning run. Names follow transformers, peft and Ray Train."""

    objective: ObjectiveName = "sft"
    """``sft``: learn the answers of conversations. ``pretraining``: learn plain text, every token. ``classification``:
    a new head tells labels apart. ``dpo``: prefer one answer to another, with the frozen base as the reference."""

    method: Literal["lora", "full"] = "lora"
    """``lora``: train low-rank adapters on a frozen base. ``full``: train every weight."""

    strategy: Literal["auto", "ddp", "fsdp2", "deepspeed"] = "ddp"
    """How workers share the work. ``auto``: by the memory that the run needs and the workers have."""

    deepspeed: ZeroStage | DeepspeedFile | None = None
    """ZeRO stage, or the path of a DeepSpeed JSON; required with, and only with, ``strategy: deepspeed``. The JSON is
    read when the config is, and kept with it; its ``"auto"`` values are filled in from this config."""

    learning_rate: float = Field(default=2e-4, gt=0.0, le=1.0)
    """Peak learning rate of AdamW."""

    num_train_epochs: Positive = 1
    """Passes over the training rows."""

    max_steps: Positive | None = None
    """Stop after this many optimizer steps; None: run all epochs."""

    per_device_train_batch_size: Positive = 8
    """Rows per worker and micro-step."""

    min_per_device_train_batch_size: Positive | None = None
    """After an out-of-memory error the run goes on with half the rows per micro-step and twice the micro-steps, down to
    this size; a step still learns from the same rows. None: it ends."""

    group_by_length: bool = True
    """Learn from rows of like length together: less padding, and workers that wait less for each other."""

    packing: bool = False
    """Fill micro-batches with packs of rows, each of at most ``data.max_length`` tokens; rows never see each other.
    ``per_device_train_batch_size`` then counts packs. Needs a padding-free model."""

    padding_free: bool | Literal["auto"] = "auto"
    """Lay the rows of a micro-batch out one behind the other instead of padding them, and compute a beginning that they
    share once. ``auto``: where the model's attention allows; true: refuse a model whose attention does not."""

    gradient_accumulation_steps: Positive = 1
    """Micro-steps per optimizer step."""

    warmup_ratio: float = Field(default=0.03, ge=0.0, lt=1.0)
    """Share of all steps over which the learning rate rises."""

    lr_scheduler_type: Scheduler = "cosine"
    """Shape of the learning rate after warm-up."""

    weight_decay: float = Field(default=0.0, ge=0.0)
    """AdamW's decoupled weight decay."""

    max_grad_norm: float = Field(default=1.0, gt=0.0)
    """Gradients are scaled down to this global L2 norm."""

    bf16: bool | Literal["auto"] = "auto"
    """Compute in bfloat16; trained weights and optimizer state stay in float32. ``auto``: where every worker's processor
    multiplies in it."""

    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""

    fused_layers: bool = True
    """Run LoRA and gated layers in fewer passes over memory; the mathematics is the same."""

    torch_compile: bool = False
    """Compile each decoder layer with torch.compile: some minutes at the start, faster steps after. Needs a C++
    compiler on a CPU."""

    use_liger_kernel: bool = False
    """Use Liger's kernels for norms, rotary embedding and gated layers. Needs GPUs and the package liger-kernel."""

    lora_r: Positive = 16
    """Rank of the adapters."""

    lora_alpha: float = Field(default=32.0, gt=0.0)
    """Adapters are scaled by lora_alpha / lora_r."""

    lora_dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Dropout on the adapters' input."""

    lora_target_modules: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Layers that get an adapter."""

    use_rslora: bool = False
    """Scale by lora_alpha / sqrt(lora_r) (Kalajdzievski 2023)."""

    use_dora: bool = False
    """Train magnitude and direction apart (Liu et al. 2024)."""

    init_lora_weights: bool | str = True
    """How adapters begin, as in peft: ``true``, ``gaussian``, ``orthogonal``, ``olora``, ``pissa``, ``pissa_niter_N``."""

    lora_modules_to_save: tuple[str, ...] = ()
    """Modules trained whole beside the adapters. The server loads no such adapter: export it merged."""

    load_in_4bit: bool = False
    """QLoRA (Dettmers et al. 2023): the frozen base in 4-bit NormalFloat; needs a GPU with bitsandbytes."""

    freeze_layers: int = Field(default=0, ge=0)
    """Full fine-tuning: the first blocks, so many, and the embeddings stay as they are."""

    freeze_modules: tuple[str, ...] = ()
    """Full fine-tuning: modules that stay as they are, by name: ``mlp``, ``model.layers.3``."""

    dpo: DpoConfig = DpoConfig()
    """Of ``objective: dpo`` alone."""

    classification: ClassificationConfig = ClassificationConfig()
    """Of ``objective: classification`` alone."""

    num_workers: WorkerCount = 1
    """Ray Train workers. A pair, as ``[1, 4]``: as many as the cluster has room for, within these limits, also while it
    shrinks and grows. The rows of a step stay the same: they are those of the greatest number."""

    elastic_resize_monitor_interval_s: float = Field(default=60.0, gt=0.0)
    """How often the cluster is asked for room for more workers, where ``num_workers`` is a pair."""

    resources_per_worker: dict[str, float] = {"CPU": 1.0}
    """What each worker reserves: CPU, GPU or custom resources."""

    max_failures: int = Field(default=0, ge=0)
    """How often a failed worker group is restarted from its last complete checkpoint."""

    spare_workers: bool = True
    """With ``max_failures``, a process per worker stands by with everything imported: see docs/faults.md."""

    logging_steps: Positive = 1
    """Optimizer steps between metric rows."""

    eval_steps: Positive | None = None
    """Optimizer steps between validations; None: once per epoch."""

    eval_metrics: tuple[EvalMetric, ...] = ()
    """What is measured beside the loss at each validation: answers are generated for all but ``perplexity``."""

    save_steps: Positive | None = None
    """Optimizer steps between checkpoints, at most so many are lost when a worker dies; None: at each validation."""

    async_save: bool = True
    """Write checkpoints while training goes on, which waits for the copy of the state alone."""

    log_samples: bool = False
    """Write the ids of the rows that each worker learned from at each step to ``samples-<rank>.jsonl``."""

    save_total_limit: Positive = 2
    """Checkpoints kept on storage: the best and the newest always are."""

    metric_for_best_model: Literal["eval_loss"] = "eval_loss"
    """What ``best`` means; lower is better."""

    hang_timeout_s: float = Field(default=600.0, gt=0.0)
    """How long a worker may not answer, or wait for the others, before it counts as failed."""

    start_timeout_s: float = Field(default=120.0, gt=0.0)
    """How long workers may take to be scheduled before the run fails."""

    @field_validator("resources_per_worker")
    @classmethod
    def _resources_positive(cls, value: dict[str, float]) -> dict[str, float]:
        for key, amount in value.items():
            if amount < 0:
                raise ValueError(f"{key}: {amount} is negative")
        if value.get("CPU", 0) + value.get("GPU", 0) <= 0:
            raise ValueError("a worker needs some CPU or GPU")
        return value

    @field_validator("deepspeed", mode="before")
    @classmethod
    def _read_deepspeed(cls, value: Any) -> Any:
        if not isinstance(value, str) or value in get_args(ZeroStage):
            return value
        if not value.endswith(".json"):
            raise ValueError(f"set it to {', '.join(get_args(ZeroStage))}, or to the path of a .json file")
        return read_deepspeed_file(value)

    @field_validator("init_lora_weights")
    @classmethod
    def _known_init(cls, value: bool | str) -> bool | str:
        if value is True or value in _INITS or re.fullmatch(r"pissa_niter_[1-9]\d*", str(value)):
            return value
        why = {
            "eva": "it needs a pass over the data first",
            "loftq": "it needs a base quantised by peft itself",
            "corda": "it needs a pass over the data first",
            "lora_ga": "it needs gradients of the base first",
            "False": "adapters that do not begin at zero change the model before it learns",
        }.get(str(value), "peft has no such way")
        raise ValueError(f"{why}; set it to true, {', '.join(_INITS)} or pissa_niter_N")

    @model_validator(mode="after")
    def _settings_fit(self) -> TrainConfig:
        if problem := next(misfits(self), None):
            raise ValueError(problem)
        return self

    @property
    def answers_prompts(self) -> bool:
        """Whether what comes out is asked by prompts and answers in text, as the endpoint does it."""
        return self.objective in ("sft", "dpo")

    @property
    def is_served(self) -> bool:
        """Whether a run ends with an endpoint: what has learnt plain text alone waits for more training."""
        return self.objective != "pretraining"

    @property
    def learns_tokens(self) -> bool:
        """Whether the loss is that of next tokens, row by row."""
        return self.objective in ("sft", "pretraining")

    @property
    def strategy_row(self) -> str:
        """The strategy's row in the table of what goes together."""
        if self.deepspeed is None or isinstance(self.deepspeed, str):
            return self.deepspeed or self.strategy
        offload = self.deepspeed.offload and self.deepspeed.stage >= 2
        return f"z{self.deepspeed.stage}{'_offload' if offload else ''}"

    @property
    def method_columns(self) -> tuple[str, ...]:
        """The method's columns in the table of what goes together."""
        if self.method == "full":
            return ("full", "frozen") if self.freeze_layers or self.freeze_modules else ("full",)
        used = {
            "rslora": self.use_rslora,
            "dora": self.use_dora,
            "pissa": self.changes_base,
            "modules_to_save": bool(self.lora_modules_to_save),
            "qlora": self.load_in_4bit,
        }
        return ("lora", *(name for name, is_used in used.items() if is_used))

    @property
    def changes_base(self) -> bool:
        """Whether adapters begin with a part of the base's weights, which are taken out of these."""
        return str(self.init_lora_weights).startswith(("pissa", "olora"))

    @property
    def saved_lora_r(self) -> int:
        """Rank of the adapter that is saved: one that took a part of the base carries that part's negative too."""
        return 2 * self.lora_r if self.changes_base else self.lora_r

    @property
    def saved_lora_alpha(self) -> float:
        """What gives the saved adapter the scale that the trained one has."""
        if not self.changes_base:
            return self.lora_alpha
        return self.lora_alpha * (math.sqrt(2) if self.use_rslora else 2)

    @property
    def not_servable(self) -> str | None:
        """The setting under which the server could not load the adapter; None: it can."""
        if self.use_dora:
            return "train.use_dora"
        return "train.lora_modules_to_save" if self.lora_modules_to_save else None

    @property
    def device(self) -> Device:
        """What workers compute on."""
        return "gpu" if self.use_gpu else "cpu"

    @property
    def is_elastic(self) -> bool:
        """Whether the number of workers may change during the run."""
        return isinstance(self.num_workers, tuple)

    @property
    def min_workers(self) -> int:
        """The fewest workers that the run goes on with."""
        return self.num_workers[0] if isinstance(self.num_workers, tuple) else self.num_workers

    @property
    def max_workers(self) -> int:
        """The most workers at once."""
        return self.num_workers[1] if isinstance(self.num_workers, tuple) else self.num_workers

    @property
    def use_gpu(self) -> bool:
        """Whether workers reserve a GPU."""
        return self.resources_per_worker.get("GPU", 0.0) > 0

    @property
    def keeps_spares(self) -> bool:
        """Whether processes stand by for workers that die."""
        return self.spare_workers and self.max_failures > 0

    @property
    def reserved_per_worker(self) -> dict[str, float]:
        """What each worker reserves, without resources of which it asks none."""
        return {key: amount for key, amount in self.resources_per_worker.items() if amount > 0}
