"""The sides of the sweep benchmarks: luthier's sweep, and plain Ray Tune that runs one TRL training per trial.

Both train the same rows with the same settings, drawn from the same space, in a Ray session of their own.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.marks import Marks
from harness.sides import Measured
from luthier.config import RunConfig
from luthier.config.domains import Choice, LogUniform
from luthier.tuning.record import SweepLog
from luthier.tuning.space import sweep_of, trial_config
from luthier.tuning.trial import Report, TrainTrial, TrialSpec

TokenRows = list[dict[str, list[int]]]


class SweepSide:
    """A side whose turn is one whole sweep.

    Args:
        configs: Of each turn's sweep; its ``tune`` section tells the space and the number of trials.
        directory: Each turn leaves its marks there, numbered from 0.
    """

    def __init__(self, configs: Sequence[RunConfig], directory: Path) -> None:
        self._configs = iter(enumerate(configs))
        self._directory = directory
        directory.mkdir(parents=True)

    def turn(self) -> Measured:
        """A sweep from the session's start to its end."""
        from luthier.cluster.session import start
        from luthier.trainers.base_model import prepare_base

        number, cfg = next(self._configs)
        marks = Marks(self._directory / f"{number}.jsonl")
        with ExitStack() as stack:
            stack.enter_context(marks.metering())
            marks.note("begun")
            workdir = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            stack.enter_context(start(cfg))
            self.sweep(cfg, prepare_base(cfg.model, offline=True), workdir, marks)
            marks.note("ended")
        return {}

    def sweep(self, cfg: RunConfig, base_model_dir: Path, workdir: Path, marks: Marks) -> None:
        """The sweep itself, in the open session."""
        raise NotImplementedError

    def final(self) -> Measured:
        """Nothing."""
        return {}


class LuthierSweep(SweepSide):
    """``luthier.tuning`` as ``luthier tune`` runs it, up to the leaderboard."""

    def sweep(self, cfg: RunConfig, base_model_dir: Path, workdir: Path, marks: Marks) -> None:
        """All of ``tune()`` that computes."""
        from luthier.tuning.data import prepare_data

        prepare_data(cfg, base_model_dir)
        run_our_trials(cfg, base_model_dir, workdir, marked(marks))


def run_our_trials(cfg: RunConfig, base_model_dir: Path, workdir: Path, train: TrainTrial) -> SweepLog:
    """The trials of a config's sweep in the open Ray session, as ``tune()`` runs them."""
    import ray

    from luthier.tuning.concurrency import max_concurrent
    from luthier.tuning.journal import Journal
    from luthier.tuning.tuner import run_trials, sweep_identity

    log = SweepLog(Journal(workdir / "sweep.jsonl", sweep_identity(cfg)), sweep_of(cfg).metric)
    spec = TrialSpec(cfg, base_model_dir, workdir / "trials", train)
    run_trials(spec, log, max_concurrent(cfg, ray.cluster_resources()), on_progress=lambda told: None)  # type: ignore[no-untyped-call]
    return log


def marked(marks: Marks) -> TrainTrial:
    """luthier's training of a trial, which notes its first step's beginning and each validation."""

    def train(
        cfg: RunConfig, *, base_model_dir: Path, workdir: Path, report: Report, adopted: Path | None = None
    ) -> None:
        from luthier.trainers import loop
        from luthier.tuning.trial import train_trial

        step = loop._step

        def first_step(*args: Any, **kwargs: Any) -> Any:
            marks.note("first step")
            loop._step = step
            return step(*args, **kwargs)

        def told(metrics: Mapping[str, float], checkpoint: Path | None = None, /) -> None:
            marks.note("validated", value=metrics["eval_loss"], step=metrics["step"])
            report(metrics, checkpoint)

        loop._step = first_step
        train_trial(cfg, base_model_dir=base_model_dir, workdir=workdir, report=told, adopted=adopted)

    return train


class PlainTune(SweepSide):
    """Ray Tune with the trials that luthier's random search draws and, where the config asks for it, its own ASHA; a process
    for each trial."""

    def sweep(self, cfg: RunConfig, base_model_dir: Path, workdir: Path, marks: Marks) -> None:
        """What a user of Ray Tune and TRL writes."""
        from ray import tune
        from ray.tune.schedulers import ASHAScheduler
        from ray.tune.search.basic_variant import BasicVariantGenerator

        from luthier.trainers.inprocess import make_job

        os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # silent
        settings = sweep_of(cfg)
        base = trial_config(cfg, {})
        job = make_job(base, base_model_dir, workdir / "job")
        assert job.validation is not None
        held_out = job.validation.read().sample(base.data.max_eval_samples, base.seed)
        task = TrlTask(cfg, base_model_dir, as_dicts(job.train_rows()), as_dicts(held_out), marks)
        validations = (base.train.max_steps or 1) // (base.train.eval_steps or 1)
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(train_with_trl, task=task), {"cpu": 1}),
            param_space={path: as_tune_domain(domain) for path, domain in settings.search_space.items()},
            tune_config=tune.TuneConfig(
                metric="eval_loss",
                mode="min",
                num_samples=settings.num_samples,
                search_alg=BasicVariantGenerator(points_to_evaluate=drawn(cfg)),
                scheduler=ASHAScheduler(max_t=validations) if settings.scheduler == "asha" else None,
            ),
            run_config=tune.RunConfig(name="plain", storage_path=str(workdir / "ray"), verbose=0),
        )
        errors = tuner.fit().errors
        if errors:
            raise errors[0]


@dataclass(frozen=True)
class TrlTask:
    """What every TRL trial shares.

    Attributes:
        cfg: The sweep's config.
        base_model_dir: The pretrained model.
        train: Rows to learn from.
        held_out: Rows to validate on.
        marks: Where trials note what happens.
    """

    cfg: RunConfig
    base_model_dir: Path
    train: TokenRows
    held_out: TokenRows
    marks: Marks


def as_dicts(rows: Any) -> TokenRows:
    """Rows as the datasets library takes them."""
    found = (rows[number] for number in range(len(rows)))
    return [{"input_ids": list(row.input_ids), "labels": list(row.labels)} for row in found]


def drawn(cfg: RunConfig) -> list[dict[str, Any]]:
    """The values of all trials of a random search, in order."""
    from luthier.tuning.proposing import make_searcher

    settings = sweep_of(cfg)
    searcher = make_searcher(settings.model_copy(update={"searcher": "random"}), cfg.seed)
    return [dict(searcher.suggest(str(number)) or {}) for number in range(settings.num_samples)]


def as_tune_domain(domain: Any) -> Any:
    """A domain of the space, in Ray Tune's words."""
    from ray import tune

    if isinstance(domain, LogUniform):
        return tune.loguniform(domain.low, domain.high)
    if isinstance(domain, Choice):
        return tune.choice(list(domain.values))
    raise NotImplementedError(domain.type)


def train_with_trl(values: dict[str, Any], task: TrlTask) -> None:
    """One SFTTrainer run: a trial of plain Ray Tune."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from ray import tune
    from transformers import AutoModelForCausalLM, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from luthier.precision import computes_in_bf16
    from luthier.trainers.tokens import ChatTokenizer

    torch.set_num_threads(1)
    train = trial_config(task.cfg, values).train
    bf16 = computes_in_bf16(train.bf16, "cpu")

    class Tell(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            task.marks.note("first step")

        def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **kwargs: Any) -> None:
            task.marks.note("validated", value=metrics["eval_loss"], step=state.global_step)
            tune.report({"eval_loss": metrics["eval_loss"], "step": state.global_step})

    with tempfile.TemporaryDirectory() as directory:
        SFTTrainer(
            model=AutoModelForCausalLM.from_pretrained(
                task.base_model_dir, dtype=torch.bfloat16 if bf16 else torch.float32
            ),
            args=SFTConfig(
                output_dir=directory,
                learning_rate=train.learning_rate,
                lr_scheduler_type=train.lr_scheduler_type,
                warmup_steps=round(train.warmup_ratio * (train.max_steps or 1)),
                weight_decay=train.weight_decay,
                max_grad_norm=train.max_grad_norm,
                per_device_train_batch_size=train.per_device_train_batch_size,
                max_steps=train.max_steps or 1,
                eval_strategy="steps",
                eval_steps=train.eval_steps,
                per_device_eval_batch_size=len(task.held_out),  # one batch, whose loss is then the mean over tokens
                bf16=bf16,
                gradient_checkpointing=False,
                train_sampling_strategy="group_by_length" if train.group_by_length else "random",
                report_to="none",
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
                use_cpu=True,
                seed=task.cfg.seed,
            ),
            train_dataset=Dataset.from_list(task.train),
            eval_dataset=Dataset.from_list(task.held_out),
            processing_class=ChatTokenizer(task.base_model_dir).hf,
            peft_config=LoraConfig(
                task_type="CAUSAL_LM",
                r=train.lora_r,
                lora_alpha=train.lora_alpha,  # type: ignore[arg-type]  # peft also takes floats
                target_modules="all-linear",
            ),
            callbacks=[Tell()],
        ).train()
