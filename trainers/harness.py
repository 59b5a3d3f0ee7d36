"""Base and tuned model on tasks of lm-evaluation-harness, loaded as for the test split."""

from __future__ import annotations

import difflib
import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from luthier.config.harness import HarnessConfig
from luthier.config.run import RunConfig
from luthier.errors import ConfigError, LuthierError
from luthier.evaluation_parts import HarnessFigure, HarnessTask
from luthier.trainers.inprocess import worker_threads
from luthier.trainers.remote_errors import unwrap

BOOTSTRAP_SAMPLES = 1000
"""Behind the standard errors for which the harness has no formula; its own 100,000 take minutes."""


def check_harness(settings: HarnessConfig, *, offline: bool) -> None:
    """Refuse tasks that can't be asked.

    Raises:
        ConfigError: The harness is not installed, or there is no such task.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise ConfigError(
            "evaluate.harness needs lm-evaluation-harness, which is not installed; pip install 'luthier[harness]', or leave it out."
        )
    known = _task_manager(settings, offline=offline).all_tasks
    for name in settings.tasks:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "lm-eval ls tasks lists them."
            raise ConfigError(f"evaluate.harness: there is no task {name!r}; {hint}")


def run_harness(cfg: RunConfig, base_model_dir: Path, artifact_dir: Path) -> dict[str, HarnessTask]:
    """The figures of base and tuned, measured by a worker like those that train; none where none are asked for. Ray must
    be initialised.

    Raises:
        LuthierError: The worker failed.
    """
    if cfg.evaluate.harness is None:
        return {}
    import ray
    from ray.exceptions import RayError

    need = cfg.train.reserved_per_worker
    others = {key: amount for key, amount in need.items() if key not in ("CPU", "GPU")}
    worker = ray.remote(num_cpus=need.get("CPU", 0.0), num_gpus=need.get("GPU", 0.0), resources=others, max_retries=0)
    variants = {"base": None, "tuned": artifact_dir}
    try:
        asked = {
            name: worker(measure).remote(cfg, base_model_dir, weights_dir) for name, weights_dir in variants.items()
        }
        return tasks_of({name: ray.get(found) for name, found in asked.items()})
    except RayError as error:
        raise unwrap(error) or LuthierError(f"a worker that ran lm-evaluation-harness failed: {error}") from error


def measure(cfg: RunConfig, base_model_dir: Path, weights_dir: Path | None) -> dict[str, Any]:
    """What the harness finds of one model, in this process.

    Args:
        cfg: Names the tasks.
        base_model_dir: The pretrained model.
        weights_dir: An artifact; None: the base itself.

    Raises:
        ConfigError: A task can't be run.
    """
    import torch
    from transformers import AutoTokenizer

    from luthier.precision import computes_in_bf16
    from luthier.trainers.model import load_trained

    assert cfg.evaluate.harness is not None
    manager = _task_manager(cfg.evaluate.harness, offline=cfg.offline)
    from lm_eval.models.huggingface import HFLM

    torch.set_num_threads(worker_threads(cfg))
    device = torch.device("cuda" if cfg.train.use_gpu else "cpu")
    dtype = torch.bfloat16 if computes_in_bf16(cfg.train.bf16, device.type) else torch.float32
    model = load_trained(base_model_dir, cfg.model, weights_dir, dtype).to(device).eval()
    asked = HFLM(
        pretrained=model, tokenizer=AutoTokenizer.from_pretrained(base_model_dir), batch_size=cfg.evaluate.batch_size
    )
    found = _ask(asked, cfg.evaluate.harness, manager, cfg.seed)
    return {key: found[key] for key in ("results", "versions", "n-samples") if key in found}


def _ask(model: Any, settings: HarnessConfig, manager: Any, seed: int) -> Any:
    from lm_eval import simple_evaluate

    try:
        return simple_evaluate(
            model=model,
            tasks=list(settings.tasks),
            task_manager=manager,
            num_fewshot=settings.num_fewshot,
            limit=settings.limit,
            apply_chat_template=settings.chat_template,
            bootstrap_iters=BOOTSTRAP_SAMPLES,
            log_samples=False,
            random_seed=seed,
            numpy_random_seed=seed,
            torch_random_seed=seed,
            fewshot_random_seed=seed,
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ConfigError(
            f"evaluate.harness: {', '.join(settings.tasks)} can't be run ({type(error).__name__}); with offline: true their data "
            "must be cached or lie in evaluate.harness.include_path."
        ) from error


def tasks_of(found: Mapping[str, Mapping[str, Any]]) -> dict[str, HarnessTask]:
    """By task the figures of every variant.

    Args:
        found: By variant what the harness gave.
    """
    first = next(iter(found.values()))
    return {
        task: HarnessTask(
            version=str(first.get("versions", {}).get(task, "unknown")),
            n=first.get("n-samples", {}).get(task, {}).get("effective", 0),
            variants={name: _figures(one["results"][task]) for name, one in found.items()},
        )
        for task in first["results"]
    }


def _figures(told: Mapping[str, Any]) -> dict[str, HarnessFigure]:
    """The harness tells ``acc,none`` beside ``acc_stderr,none``."""
    figures: dict[str, HarnessFigure] = {}
    for key, value in told.items():
        metric, comma, kind = key.partition(",")
        if comma and isinstance(value, int | float) and not metric.endswith("_stderr"):
            stderr = told.get(f"{metric}_stderr,{kind}")
            known = float(stderr) if isinstance(stderr, int | float) else None
            figures[key] = HarnessFigure(value=float(value), stderr=known)
    return figures


def _task_manager(settings: HarnessConfig, *, offline: bool) -> Any:
    """The harness's tasks and the user's."""
    if offline:  # read when the harness imports its libraries
        os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_EVALUATE_OFFLINE": "1"}
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=settings.include_path)
