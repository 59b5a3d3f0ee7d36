"""The engine's core in a process that imported vLLM while the replica did.

vLLM's core runs in a process of its own, which imports vLLM a second time: 20 to 30 s on a slow core. A fork server
imports it from the replica's first moment on, beside the replica's own import, and the core is forked from that. The
server itself opens no threads and computes nothing, which is what makes forking it safe.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import forkserver
from types import SimpleNamespace
from typing import Any

from luthier.serving.vllm_log import open_vllm_log

PRELOADED = ("vllm.v1.engine.core", "vllm.v1.worker.cpu_worker", "vllm.model_executor.models.llama")
"""What a CPU engine's core needs; the model classes of most families are built on Llama's."""

_PR_SET_PDEATHSIG = 1


def begin() -> None:
    """Start importing vLLM in the fork server; returns at once."""
    multiprocessing.set_forkserver_preload(list(PRELOADED))
    forkserver.ensure_running()


@contextmanager
def forked_core() -> Iterator[None]:
    """Within the block vLLM starts its core from the fork server."""
    from vllm.v1.engine import utils

    original = utils.get_mp_context
    utils.get_mp_context = lambda: SimpleNamespace(Process=_process)
    try:
        yield
    finally:
        utils.get_mp_context = original


def _process(*, target: Callable[..., None], name: str, kwargs: Mapping[str, Any]) -> Any:
    """A process of the fork server that finds the environment as it is here and now."""
    context = multiprocessing.get_context("forkserver")
    return context.Process(target=_run, name=name, args=(dict(os.environ), target, dict(kwargs)))


def _run(environment: dict[str, str], target: Callable[..., None], kwargs: dict[str, Any]) -> None:
    # The server ends when the replica does, however it dies; so shall the core.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.environ.update(environment)
    open_vllm_log()
    _use_row_products()
    target(**kwargs)


def _use_row_products() -> None:
    """Let vLLM multiply with adapters by :mod:`luthier.serving.lora_wrapper`, in place of its own way on CPUs."""
    from vllm.platforms.cpu import CpuPlatform

    CpuPlatform.get_punica_wrapper = classmethod(lambda cls: "luthier.serving.lora_wrapper.RowsWrapper")
