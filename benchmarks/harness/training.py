"""The sides of the training benchmarks: luthier's own step, and TRL's SFTTrainer as it is."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from queue import Queue
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from torch.nn import functional
from transformers import AutoModelForCausalLM, TrainerCallback
from trl import SFTConfig, SFTTrainer

from harness.sides import Measured
from harness.workloads import Workload
from luthier.config import RunConfig
from luthier.trainers.base_model import prepare_base
from luthier.trainers.loop import _step
from luthier.trainers.model import build_trainable
from luthier.trainers.objectives import build_objective
from luthier.trainers.speed import speed_up
from luthier.trainers.strategies import Worker, build_strategy
from luthier.trainers.tokens import ChatTokenizer


class LuthierSide:
    """Optimizer steps as ``trainers/loop.py`` does them, in one process."""

    def __init__(self, cfg: RunConfig, work: Workload) -> None:
        torch.set_num_threads(os.cpu_count() or 1)
        base_dir, train = prepare_base(cfg.model, offline=True), cfg.train
        self._work = work
        self._worker = Worker(0, 1, torch.device("cpu"))
        torch.manual_seed(cfg.seed)
        self._model = build_trainable(base_dir, cfg.model, train)
        self._objective = build_objective(train, cfg.data, base_dir)
        fast = speed_up(self._model, train, self._objective.tokenizer.pad_id)
        self._collate = fast or self._objective.collate
        self._strategy = build_strategy(train, self._objective.loss(self._model), self._worker, num_steps=1000)
        starts = range(0, len(work.train), work.batch_rows)
        self._batches = iter([work.train[start : start + work.batch_rows] for start in starts])
        self._step = 0
        self._bf16 = train.bf16 is True
        self._model.train()

    def turn(self) -> Measured:
        """One optimizer step."""
        began = time.perf_counter()
        self._step += 1
        batch = self._collate(next(self._batches))
        row = _step(self._strategy, self._objective, [batch], self._worker, self._step)
        return {"seconds": time.perf_counter() - began, "loss_tokens": row["loss_tokens"], "tokens": row["tokens"]}

    def final(self) -> Measured:
        """The loss on held-out rows."""
        return {"final_loss": final_loss(self._model, self._work, bf16=self._bf16)}


class TrlSide:
    """SFTTrainer on the same token ids and labels. Its callbacks let it wait between steps; nothing else is changed.

    Args:
        cfg: Learning rate and adapter.
        work: The rows.
        settings: SFTConfig's settings beside those that all sides share.
    """

    def __init__(self, cfg: RunConfig, work: Workload, settings: dict[str, Any]) -> None:
        torch.set_num_threads(os.cpu_count() or 1)
        base_dir, train = prepare_base(cfg.model, offline=True), cfg.train
        self._work = work
        self._go: Queue[None] = Queue()
        self._done: Queue[Measured | BaseException] = Queue()
        self._counted = {"loss_tokens": 0.0, "tokens": 0.0}
        lora = LoraConfig(
            task_type="CAUSAL_LM", r=train.lora_r, lora_alpha=int(train.lora_alpha), target_modules="all-linear"
        )
        self._bf16 = bool(settings["bf16"])
        # As on our side: a frozen base in the type that it computes in, trained weights in float32.
        dtype = torch.bfloat16 if self._bf16 and train.method == "lora" else torch.float32
        self._trainer: Any = SFTTrainer(
            model=AutoModelForCausalLM.from_pretrained(base_dir, dtype=dtype),
            args=SFTConfig(
                output_dir=tempfile.mkdtemp(),
                learning_rate=train.learning_rate,
                lr_scheduler_type="constant",
                max_steps=1000,
                report_to="none",
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
                use_cpu=True,
                seed=cfg.seed,
                **{"train_sampling_strategy": "sequential", **settings},
            ),
            train_dataset=Dataset.from_list(
                [{"input_ids": list(row.input_ids), "labels": list(row.labels)} for row in work.train]
            ),
            processing_class=ChatTokenizer(base_dir).hf,
            peft_config=lora if train.method == "lora" else None,
            callbacks=[_TakeTurns(self._wait, self._tell)],
        )
        self._compute_loss = self._trainer.compute_loss
        self._trainer.compute_loss = self._count_and_compute
        threading.Thread(target=self._train, daemon=True).start()

    def turn(self) -> Measured:
        """One optimizer step."""
        self._go.put(None)
        told = self._done.get()
        if isinstance(told, BaseException):
            raise told
        return told

    def final(self) -> Measured:
        """The loss on held-out rows."""
        return {"final_loss": final_loss(self._trainer.model, self._work, bf16=self._bf16)}

    def _train(self) -> None:
        try:
            self._trainer.train()
        except BaseException as error:
            self._done.put(error)

    def _wait(self) -> None:
        self._go.get()
        self._counted = {"loss_tokens": 0.0, "tokens": 0.0}
        self._began = time.perf_counter()

    def _tell(self) -> None:
        self._done.put({"seconds": time.perf_counter() - self._began, **self._counted})

    def _count_and_compute(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        mask = inputs.get("attention_mask")
        self._counted["loss_tokens"] += float((inputs["labels"][:, 1:] != -100).sum())
        self._counted["tokens"] += float(inputs["input_ids"].numel() if mask is None else mask.sum())
        return self._compute_loss(model, inputs, *args, **kwargs)


class _TakeTurns(TrainerCallback):  # type: ignore[misc]
    def __init__(self, wait: Any, tell: Any) -> None:
        self._wait, self._tell = wait, tell

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self._wait()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self._tell()
        self._wait()


@torch.no_grad()
def final_loss(model: Any, work: Workload, *, bf16: bool) -> float:
    """Mean negative log-likelihood over the held-out rows' loss-bearing tokens, from all logits of a plain forward."""
    model.eval()
    total, tokens = 0.0, 0
    for row in work.held_out:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            logits = model(input_ids=torch.tensor([row.input_ids])).logits[0, :-1].float()
        targets = torch.tensor(row.labels[1:])
        total += float(functional.cross_entropy(logits, targets, reduction="sum"))
        tokens += row.num_loss_tokens
    return total / tokens
