"""The whole configuration of one run, and the rules that span its parts."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from luthier.config import objective_rules, sequence
from luthier.config.base import Config
from luthier.config.data import DataConfig, DatasetConfig
from luthier.config.deploy import ClusterConfig, RegistryConfig
from luthier.config.eval_metrics import check_eval_metrics
from luthier.config.judge import EvaluateConfig, GateConfig, rows_for_a_gain
from luthier.config.model import ModelConfig
from luthier.config.secret import SecretRef
from luthier.config.serve import ServeConfig
from luthier.config.stage import StageConfig
from luthier.config.train import TrainConfig
from luthier.config.tune import TuneConfig


class RunConfig(Config):
    """One life cycle: data, sweep, fine-tuning, judgement, registration, serving."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    """Name of the model in the registry and at the endpoint."""

    seed: int = Field(default=42, ge=0)
    """Seed of every random choice."""

    offline: bool = False
    """Reach no hub: every model and file must be local."""

    storage_path: str = "runs"
    """Directory under which the run's directory is made."""

    model: ModelConfig
    """The base model."""

    datasets: tuple[DatasetConfig, ...] = Field(min_length=1)
    """The tasks to learn."""

    data: DataConfig = DataConfig()
    """How rows become tokens."""

    train: TrainConfig = TrainConfig()
    """Fine-tuning."""

    stages: tuple[StageConfig, ...] = ()
    """Trainings one after the other, each from the weights of the one before it; none: one training on all datasets."""

    tune: TuneConfig | None = None
    """Sweep before fine-tuning; None: none."""

    evaluate: EvaluateConfig = EvaluateConfig()
    """Evaluation on the test split."""

    gate: GateConfig = GateConfig()
    """Conditions of promotion."""

    registry: RegistryConfig = RegistryConfig()
    """Where versions are kept."""

    serve: ServeConfig = ServeConfig()
    """The endpoint."""

    cluster: ClusterConfig = ClusterConfig()
    """The Ray cluster."""

    secrets: dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], SecretRef] = {}
    """Environment variables that libraries read credentials from, such as HF_TOKEN, each with where its value lies. It is
    looked up on every machine anew, and never stands in a config, an argument, a log or what is shipped."""

    @model_validator(mode="before")
    @classmethod
    def _objective_decides_defaults(cls, raw: Any) -> Any:
        return objective_rules.fill_in(raw)

    @model_validator(mode="after")
    def _objective_fits(self) -> RunConfig:
        objective_rules.check(self)
        check_eval_metrics(self)
        return self

    @model_validator(mode="after")
    def _sweep_has_validation(self) -> RunConfig:
        if (
            self.tune is not None
            and self.tune.metric.startswith("eval_")
            and not any(d.validation for d in self.datasets)
        ):
            raise ValueError(
                f"tune.metric is {self.tune.metric} but no dataset has a validation file; add datasets[].validation"
            )
        return self

    @model_validator(mode="after")
    def _adapter_fits_server(self) -> RunConfig:
        train = self.train
        served = train.answers_prompts and train.method == "lora"
        if served and train.saved_lora_r > self.serve.max_lora_rank:
            saved = f" gives an adapter of rank {train.saved_lora_r}, which" if train.changes_base else ""
            raise ValueError(
                f"train.lora_r={train.lora_r}{saved} is above serve.max_lora_rank={self.serve.max_lora_rank}; "
                "the adapter could not be served: lower the one or raise the other"
            )
        return self

    @model_validator(mode="after")
    def _rows_fit_server(self) -> RunConfig:
        if self.train.answers_prompts and self.evaluate.max_new_tokens >= self.serve.max_model_len:
            raise ValueError(
                f"evaluate.max_new_tokens={self.evaluate.max_new_tokens} leaves no room for a prompt in "
                f"serve.max_model_len={self.serve.max_model_len}"
            )
        return self

    @model_validator(mode="after")
    def _gate_can_be_asked(self) -> RunConfig:
        if "few_shot" in self.gate.against and not self.evaluate.few_shot_k:
            raise ValueError(
                "evaluate.few_shot_k=0 leaves the few-shot baseline out, but gate.against names few_shot; raise the "
                "one, or set gate.against=[base,incumbent]"
            )
        needed = rows_for_a_gain(self.evaluate.confidence)
        if self.gate.against and self.evaluate.limit is not None and self.evaluate.limit < needed:
            raise ValueError(
                f"evaluate.limit={self.evaluate.limit} is too few: a gain at {self.evaluate.confidence:.0%} confidence "
                f"takes at least {needed} test rows"
            )
        if not self.train.is_served and (setting := self.gate.needs_serving):
            raise ValueError(
                f"{setting} asks how the model answers where it is served, but one of train.objective: "
                f"{self.train.objective} is not served; take it out"
            )
        if not self.train.answers_prompts and (setting := self.gate.needs_tokens):
            raise ValueError(
                f"{setting} asks how soon tokens come, but a model of train.objective: {self.train.objective} answers "
                "with none; take it out"
            )
        return self

    @model_validator(mode="after")
    def _shots_can_be_chosen(self) -> RunConfig:
        chosen = len(self.evaluate.few_shot_ks) > 1
        if chosen and not any(dataset.validation for dataset in sequence.judged_datasets(self)):
            raise ValueError(
                f"evaluate.few_shot_k={self.evaluate.few_shot_k!r} is chosen on validation rows, and no dataset has any; "
                "add datasets[].validation, or give a number"
            )
        return self

    @model_validator(mode="after")
    def _judge_can_be_asked(self) -> RunConfig:
        judge = self.evaluate.judge
        if judge is None:
            return self
        if self.offline and not judge.is_local:
            raise ValueError(
                f"evaluate.judge.base_url={judge.base_url} is not on this machine, and offline: true lets nothing leave it; use "
                "an address like http://127.0.0.1:9000/v1, or leave evaluate.judge out"
            )
        if not self.train.answers_prompts:
            raise ValueError(
                f"evaluate.judge compares answers in words, and a model of train.objective: {self.train.objective} gives none; "
                "leave it out"
            )
        return self

    @model_validator(mode="after")
    def _harness_can_ask(self) -> RunConfig:
        if self.evaluate.harness is not None and self.train.objective == "classification":
            raise ValueError(
                "evaluate.harness asks models that give tokens, and one of train.objective: classification gives none; leave it out"
            )
        return self

    @model_validator(mode="after")
    def _task_names_distinct(self) -> RunConfig:
        names = [d.name for d in self.datasets]
        if len(set(names)) != len(names):
            raise ValueError(f"datasets[].name must be distinct; got {names}")
        return self

    @model_validator(mode="after")
    def _all_weighted_or_none(self) -> RunConfig:
        bare = [d.name for d in self.datasets if d.weight is None]
        if bare and len(bare) < len(self.datasets):
            raise ValueError(
                f"datasets[].weight is set for some datasets and not for {bare[0]!r}; give it to all or none"
            )
        return self

    @model_validator(mode="after")
    def _stages_fit(self) -> RunConfig:
        sequence.check(self)
        return self
