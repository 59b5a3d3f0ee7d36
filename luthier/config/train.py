"""How to fine-tune."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from luthier.config.base import Config

Scheduler = Literal["linear", "cosine", "constant", "constant_with_warmup"]
ZeroStage = Literal["z0", "z1", "z2", "z3"]
Positive = Annotated[int, Field(ge=1)]
WorkerCount = Annotated[
    Annotated[Positive, Tag("number")] | Annotated[tuple[Positive, Positive], Tag("range")],
    Discriminator(lambda value: "range" if isinstance(value, list | tuple) else "number"),
]


class TrainConfig(Config):
    """One fine-tuning run. Names follow transformers, peft and Ray Train."""

    method: Literal["lora", "full"] = "lora"
    """``lora``: train low-rank adapters on a frozen base. ``full``: train every weight."""

    strategy: Literal["ddp", "deepspeed"] = "ddp"
    """How workers share the work."""

    deepspeed: ZeroStage | None = None
    """ZeRO stage; required with, and only with, ``strategy: deepspeed``."""

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

    num_workers: WorkerCount = 1
    """Ray Train workers. A pair, as ``[1, 4]``: as many as the cluster has room for, within these limits, also while it
    shrinks and grows. The rows of a step stay the same: they are those of the greatest number."""

    elastic_resize_monitor_interval_s: float = Field(default=60.0, gt=0.0)
    """How often the cluster is asked for room for more workers, where ``num_workers`` is a pair."""

    resources_per_worker: dict[str, float] = {"CPU": 1.0}
    """What each worker reserves: CPU, GPU or custom resources."""

    max_failures: int = Field(default=0, ge=0)
    """How often a failed worker group is restarted from its last complete checkpoint."""

    logging_steps: Positive = 1
    """Optimizer steps between metric rows."""

    eval_steps: Positive | None = None
    """Optimizer steps between validations; None: once per epoch."""

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

    @model_validator(mode="after")
    def _strategy_matches(self) -> TrainConfig:
        if self.strategy == "deepspeed" and self.deepspeed is None:
            raise ValueError("strategy: deepspeed needs train.deepspeed; set it to z0, z1, z2 or z3")
        if self.strategy != "deepspeed" and self.deepspeed is not None:
            raise ValueError(
                f"train.deepspeed={self.deepspeed} is set but strategy is {self.strategy}; set strategy: deepspeed"
            )
        if self.min_workers > self.max_workers:
            raise ValueError(f"num_workers={self.num_workers} is no range; put the smaller number first")
        least = self.min_per_device_train_batch_size
        if least is not None and least > self.per_device_train_batch_size:
            raise ValueError(
                f"min_per_device_train_batch_size={least} is above per_device_train_batch_size="
                f"{self.per_device_train_batch_size}; lower it"
            )
        if self.use_dora and self.method != "lora":
            raise ValueError("use_dora needs method: lora")
        return self

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
    def reserved_per_worker(self) -> dict[str, float]:
        """What each worker reserves, without resources of which it asks none."""
        return {key: amount for key, amount in self.resources_per_worker.items() if amount > 0}
