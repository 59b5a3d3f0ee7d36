"""What Ray Train's controller does about failures of workers beyond starting them again.

Some failures are certain to come again: a loss that is not a number, a full disk, memory that is too small. They end the
attempt at once, however many ``train.max_failures`` are left.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray.exceptions import OutOfMemoryError
from ray.train import UserCallback

from luthier.errors import LuthierError, OutOfMemory
from luthier.trainers.remote_errors import unwrap

_BY_RAY = re.compile(r"running low on memory|due to memory pressure", re.IGNORECASE)
"""What Ray says of processes that its own memory monitor killed."""

_ADVICE = "lower train.per_device_train_batch_size or data.max_length, or set train.gradient_checkpointing: true"


class EndOnLastingFailures(UserCallback):
    """Raises, in the controller, the error of a worker that trying again can't mend.

    It is made where the run starts, and notes how many processes the kernel has killed for lack of memory until then.
    """

    def __init__(self) -> None:
        self._host = socket.gethostname()
        self._kills = _kernel_kills()

    def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, Exception]) -> None:
        """Called after each round of health checks in which a worker failed."""
        for rank, error in worker_exceptions.items():
            lasting = unwrap(error) or self._out_of_memory(rank, error)
            if lasting is not None:
                raise lasting

    def _out_of_memory(self, rank: int, error: Exception) -> LuthierError | None:
        cause = getattr(error, "health_check_failure", error)
        if isinstance(cause, OutOfMemoryError) or _BY_RAY.search(str(cause)):
            return OutOfMemory(
                f"worker {rank} was killed by Ray because its machine ran low on memory; {_ADVICE}, or use fewer workers "
                "per machine."
            )
        if cause is not error and socket.gethostname() == self._host and _kernel_kills() > self._kills:
            return OutOfMemory(
                f"worker {rank} died while the kernel of {self._host} killed processes for lack of memory; {_ADVICE}."
            )
        return None


def ran_out(error: BaseException) -> OutOfMemory | None:
    """The named error, if what a worker's code raised means that an allocation failed."""
    import torch

    # On a CPU torch has no type for it: https://github.com/pytorch/pytorch/blob/v2.13.0/c10/core/impl/alloc_cpu.cpp
    of_cpu = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    if of_cpu or isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return OutOfMemory(f"a worker ran out of memory ({str(error).splitlines()[0]}); {_ADVICE}.")
    return None


def _kernel_kills() -> int:
    """Processes that this machine's kernel has killed for lack of memory since it started."""
    counters = Path("/proc/vmstat")
    if not counters.exists():
        return 0
    return next((int(line.split()[1]) for line in counters.read_text().splitlines() if line.startswith("oom_kill ")), 0)
