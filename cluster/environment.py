"""Environment variables that every process of a run needs before it imports Ray, transformers or vLLM."""

from __future__ import annotations

import os

from luthier.config import RunConfig
from luthier.paths import cache_dir

ALWAYS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # no telemetry
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "RAY_TRAIN_V2_ENABLED": "1",
    # report() waits for the next check, 2 s by default; ten checks a second took 5 % from a worker on two cores.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # A worker that hangs can't leave its process group either; Ray would give it 30 s more for that.
    "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "5",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a worker without a GPU keeps the user's CUDA_VISIBLE_DEVICES
    # Freed memory stays with the process. By default glibc hands each large tensor back, and the next one faults its
    # pages in again: answering 64 few-shot prompts on a virtual machine took 5.5 million faults and a third longer.
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
    "TOKENIZERS_PARALLELISM": "false",  # its threads do not survive a fork
    # What a replica of Ray Serve does is asynchronous here; a thread of its own would only hand each message over.
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(2**28),  # an answer with many log-probabilities has some megabytes
}

OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


def environment(cfg: RunConfig) -> dict[str, str]:
    """The variables for this run."""
    return {**ALWAYS, **(OFFLINE if cfg.offline else {})}


def apply_environment(cfg: RunConfig) -> None:
    """Set the variables in this process; what the user has set stays, but offline is enforced.

    Where Python may not keep what it compiled beside the sources, it is told to keep it in our cache: each process of a
    run would compile torch and transformers anew, which takes twice as long as all else in their import.
    """
    if os.environ.get("PYTHONDONTWRITEBYTECODE") and not os.environ.get("PYTHONPYCACHEPREFIX"):
        os.environ["PYTHONPYCACHEPREFIX"] = str(cache_dir() / "bytecode")
        os.environ["PYTHONDONTWRITEBYTECODE"] = ""
    for key, value in environment(cfg).items():
        if key in OFFLINE:
            os.environ[key] = value
        else:
            os.environ.setdefault(key, value)
