"""Processes that have imported everything, so that a worker group that failed is back within seconds.

Ray keeps a process whose task has ended for the next task or actor of the same environment, for about a second. So one
task a worker imports what a worker imports, and waits; just before a new group starts it is told to end, and Ray makes
the new worker in its process. Without spares each new worker imports torch and transformers first, which takes some ten
seconds of a core.
"""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


class WarmSpares(WorkerGroupCallback):  # the hook that Ray offers for "custom workarounds": not for users in general
    """Keeps one spare process for each worker, on the worker's machine.

    Args:
        base_model_dir: The model that workers load; its architecture's modules are imported.
        strategy: The strategy that they use.
    """

    def __init__(self, base_model_dir: Path, strategy: str) -> None:
        self._what = (base_model_dir, strategy)
        self._spares: list[Any] = []

    def before_worker_group_start(self, worker_group_context: Any) -> None:
        """Free the spares for the workers that Ray is about to make."""
        for spare in self._spares:
            ray.cancel(spare)
        ready, _ = ray.wait(self._spares, num_returns=len(self._spares), timeout=2.0) if self._spares else ([], [])
        for spare in ready:
            with suppress(ray.exceptions.RayError):
                ray.get(spare)
        self._spares = []

    def after_worker_group_training_start(self, worker_group: Any) -> None:
        """Start new spares; they give way to the workers wherever both want a core."""
        own = worker_group._train_run_context.run_config.worker_runtime_env
        environment = worker_group._get_worker_runtime_env(custom_runtime_env=own)
        for worker in worker_group.get_workers():
            here = NodeAffinitySchedulingStrategy(worker.metadata.node_id, soft=False)
            spare = ray.remote(num_cpus=0, max_retries=0, runtime_env=environment)(_wait_warm)
            self._spares.append(spare.options(scheduling_strategy=here).remote(*self._what))


def _wait_warm(base_model_dir: Path, strategy: str) -> None:
    """Import what a worker imports, then wait for the interrupt that ``ray.cancel`` sends."""
    told = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: told.set())
    policy = os.sched_getscheduler(0)
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    try:
        _import_all(base_model_dir, strategy)
        while not told.wait(0.05):
            pass
    finally:
        os.sched_setscheduler(0, policy, os.sched_param(0))
        signal.signal(signal.SIGINT, before)


def _import_all(base_model_dir: Path, strategy: str) -> None:
    import peft  # noqa: F401
    import ray.train.torch  # noqa: F401
    import torch
    import torch.utils.tensorboard
    from transformers import AutoConfig, AutoModelForCausalLM

    from luthier.trainers import loop  # noqa: F401
    from luthier.trainers.tokens import ChatTokenizer

    if strategy == "deepspeed":
        import deepspeed  # noqa: F401

    ChatTokenizer(base_model_dir)
    with torch.device("meta"):  # imports the architecture's modules, and takes no memory
        AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base_model_dir))
